"""Ray from the outside: sessions, addresses, tokens, scratch folders and progress."""
