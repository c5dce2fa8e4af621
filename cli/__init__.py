"""The commands of `cv-assets`: thin modules that call the assets, sensors and resources."""
