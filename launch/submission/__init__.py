"""From a recipe and a cluster file to submitted jobs."""
