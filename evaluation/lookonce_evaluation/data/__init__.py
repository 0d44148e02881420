"""Images with their questions: drawn scenes, folders of pictures, and MME's files."""
