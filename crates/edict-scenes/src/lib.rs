//! Procedural scenes with captions and ground-truth edits.
