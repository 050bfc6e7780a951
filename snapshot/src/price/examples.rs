//! The worked examples of the pricing rules, to the nano-dollar.
