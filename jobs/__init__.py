"""The commands. Only this package imports Ray, and no other package imports this one."""
