"""Text: cleaning, language, Chinese scripts, the glossary, and documents as sections."""
