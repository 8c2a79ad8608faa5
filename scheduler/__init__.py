"""The pure planner, its adapters and the simulator. Empty until the scheduler lands."""
