"""Drawing a box: the logic, and a Tk window."""
