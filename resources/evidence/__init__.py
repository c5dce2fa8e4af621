"""Evidence packs: their zip files, of which every byte is determined by the content, and their signatures."""
