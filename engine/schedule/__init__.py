"""Which sequences run in the next step: the waiting room, the fair queue and the scheduler. No torch in this room."""
