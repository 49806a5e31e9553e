"""The parent's side: one event-loop thread that dispatches, collects and watches (D9, D13)."""
