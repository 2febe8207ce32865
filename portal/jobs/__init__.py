"""Jobs and attempts from submit to end: lifecycle, queue, scheduling, dispatch. Knows nothing of websockets."""
