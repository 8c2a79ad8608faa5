"""The pure planner and the simulator. Needs NumPy; nothing reads a clock, a file or a network unless its docstring says so."""
