"""What every package uses: errors, names of choices, devices, counter-based noise, atomic files, progress."""
