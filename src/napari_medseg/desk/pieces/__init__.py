"""What every dock is drawn from: layer picker, model picker, run bar, table, message line."""
