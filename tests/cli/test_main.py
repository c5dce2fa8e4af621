"""The list of commands and the version."""

from click.testing import CliRunner

from cli.main import commands


def test_the_list_of_commands_shows_whole_sentences() -> None:
    text = CliRunner().invoke(commands, ["--help"], terminal_width=80).output
    words = " ".join(text.split())
    assert "..." not in words.partition("Commands:")[2]
    for command in commands.commands.values():
        assert command.help is not None
        assert " ".join(command.help.split("\n\n")[0].split()).partition(". ")[0].rstrip(".") in words


def test_the_version_is_printed() -> None:
    result = CliRunner().invoke(commands, ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("cv-assets 0.")
