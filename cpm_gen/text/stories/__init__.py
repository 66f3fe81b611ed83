"""Stories: what a novel keeps in sight."""
