"""A shop that takes orders and reserves goods."""
