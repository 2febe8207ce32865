"""The planner's memory estimate against real runs on this machine, and against its peers' formulas."""
