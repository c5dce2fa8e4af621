"""Workers: long-lived processes that execute runs, with their imports and models kept loaded."""
