"""Gangs that read datasets under a virtual clock: the planner is the production core, all around it is modelled."""
