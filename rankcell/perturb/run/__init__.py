"""A screen as a job: what is asked for, prepared once, run in units on any machine, joined into tables."""
