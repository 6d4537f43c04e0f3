"""Search of videos by text: windows of videos, their embeddings, the index on disk, the picture of the answers."""
