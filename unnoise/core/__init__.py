"""The mathematics: schedules, processes, predictions, preconditioning, denoisers, objectives, random streams."""
