"""What a run will need and how long it will take, on devices that nobody has rented yet."""
