"""Pages that draw on several apps: home and the job page. Views only; knows no rule."""
