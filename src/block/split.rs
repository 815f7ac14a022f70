//! Splitters: where content is cut into blocks.
