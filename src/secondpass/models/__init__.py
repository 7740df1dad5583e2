"""Models in and out: names to folders, folders to models, models to folders that every library reads."""
