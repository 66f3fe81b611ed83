"""Forms of verse: what a writer notes, the tables behind it, and the masks that make a model keep to it."""
