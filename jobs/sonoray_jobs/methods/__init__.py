"""Methods: all that can be switched on, by kind, with what each costs (`sonoray methods`)."""
