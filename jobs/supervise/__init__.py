"""What watches over workers: the journal, the watchdog, starts, shutdown."""
