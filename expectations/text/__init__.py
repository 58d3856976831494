"""Work on texts: cleaning, sections of documents, glossary terms, Traditional Chinese."""
