"""Which sequences run in the next step: admission, the fair queue and the scheduler. No torch in this package."""
