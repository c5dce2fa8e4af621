"""Settings of the pages and the API (`cv-assets serve`)."""

from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from resources.config.section import Secret, Section

MIN_TOKEN_LENGTH = 16
_MAX_NAMES = 100
_HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:\[\]-]{1,253}$")]


class ServeSettings(Section):
    """The pages and the API, which other programs and machines may use."""

    token: Secret | None = Field(
        None,
        description="Token of programs and password of the login page, or {env: NAME}; at least "
        f"{MIN_TOKEN_LENGTH} characters. null: no login, and only this machine has access.",
    )
    host_names: tuple[_HostName, ...] = Field(
        (),
        max_length=_MAX_NAMES,
        description="Further names of this server in browsers, such as that of a proxy: name or name:port.",
    )
    max_upload_gb: float = Field(50, gt=0, le=100_000, description="Largest upload in GB.")
    callback_hosts: tuple[_HostName, ...] = Field(
        (),
        max_length=_MAX_NAMES,
        description="Hosts to which a callback_url may lead, as name or name:port; every other is refused.",
    )

    @field_validator("token")
    @classmethod
    def _check_token(cls, value: Secret | None) -> Secret | None:
        if isinstance(value, SecretStr) and len(value.get_secret_value()) < MIN_TOKEN_LENGTH:
            raise ValueError(f"the token is too short: use at least {MIN_TOKEN_LENGTH} characters")
        return value
