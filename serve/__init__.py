"""The web server of `cv-assets dev`: Dagster's UI behind a guard that other web pages cannot get past."""
