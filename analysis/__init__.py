"""Tables and figures: numbers from finished runs, then ink from the numbers alone."""
