"""The pages that people open: their routes and the data that they show, read from the published results."""
