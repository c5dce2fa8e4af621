"""The web servers: Dagster's UI behind a guard, and the pages and the API of recordings (`cv-assets serve`)."""
