"""What a user would run instead, one file each: `chain(log_density, x0, n_steps, …) -> x_K`, never copied elsewhere."""
