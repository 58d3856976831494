"""The rule book: one entry for every code. docs/rules.md is built from it."""

from __future__ import annotations

from typing import NamedTuple


class Code(NamedTuple):
    """One rule: its title, why it matters, and how to fix what broke it."""

    title: str
    why: str
    fix: str


CODES: dict[str, Code] = {
    # Reading: the bytes
    "FT-ROW-001": Code(
        "The row is not UTF-8",
        "Guessing an encoding turns text into other text without a word.",
        "Save the file as UTF-8, for example `iconv -f GB18030 -t UTF-8 FILE`.",
    ),
    "FT-ROW-002": Code(
        "The row is not JSON",
        "A lenient parser would read something else than was written.",
        "Fix the row so that a JSON parser accepts it, or delete it.",
    ),
    "FT-ROW-003": Code(
        "A key appears twice in one object",
        "Parsers disagree on which of the two counts.",
        "Keep one of the two keys.",
    ),
    "FT-ROW-004": Code(
        "NaN or an infinite number",
        "It is not JSON, and it spreads through every mean and every loss.",
        "Write null, leave the key out, or write the number that was meant.",
    ),
    "FT-ROW-005": Code(
        "Nested too deeply",
        "Such a row can exhaust a parser's stack; no format here needs it.",
        "Flatten the row.",
    ),
    "FT-ROW-006": Code(
        "The row is longer than allowed",
        "One endless row would take all memory.",
        "Split the row, or raise `datasets.max_line_bytes`.",
    ),
    "FT-ROW-007": Code(
        "The file ends inside the row",
        "An interrupted copy or writer: what follows is missing.",
        "Write or copy the file again; delete the last row if the rest is known to be whole.",
    ),
    "FT-ROW-008": Code(
        "The compressed file is damaged",
        "Cut or flipped bytes: none of its rows can be trusted, so none is used.",
        "Copy or compress the file again; `gzip -t FILE` must pass.",
    ),
    "FT-ROW-009": Code(
        "Half of a surrogate pair",
        "Such a text cannot be written as UTF-8, and parsers turn it into different things.",
        "Write the whole character, or both halves of the pair.",
    ),
    "FT-ROW-010": Code(
        "The compressed file grows out of proportion",
        "A decompression bomb: none of its rows is used.",
        "Check where the file comes from; decompress it yourself if it is meant.",
    ),
    "FT-ROW-011": Code(
        "Not a kind of file that is read here",
        "Read are JSON, JSONL and TSV, these packed with gzip or zstd, Parquet, and folders of the datasets library.",
        "Convert the file to UTF-8 JSONL.",
    ),
    "FT-ROW-012": Code(
        "The file cannot be opened",
        "What cannot be read cannot be judged.",
        "Check the path and its permissions.",
    ),
    "FT-ROW-013": Code(
        "The JSON array is broken",
        "Elements may be missing at this place.",
        "Write the array again; exactly one comma between two elements, nothing after `]`.",
    ),
    # Text of any format
    "FT-TEXT-001": Code(
        "Control characters in the text",
        "They are residue of a conversion; a model learns them, logs and terminals obey them.",
        "Remove them at the place that wrote the file.",
    ),
    "FT-TEXT-002": Code(
        "Residue of a prompt template",
        "A slot that was never filled, or another tool's label, is learned as if a person had written it.",
        "Fill the slot or take the label out, at the place that wrote the file.",
    ),
    "FT-TEXT-003": Code(
        "The print of an object where its text was meant",
        "Scores, ids and field names of a library become training text.",
        "Write the object's text (`node.content`, `document.page_content`) instead of the object.",
    ),
    "FT-TEXT-004": Code(
        "The row names another language than its text is in",
        "Shares by language and language-specific cleaning would be wrong.",
        "Correct `language`, or leave it out: it is found by script.",
    ),
    "FT-VERSION-001": Code(
        "A version of the format that is not read here",
        "A newer writer may have moved or redefined fields; reading it as the old form would guess.",
        "Update ft-assets, or write a version that both know (`ft convert` writes the current one).",
    ),
    "FT-DIALECT-001": Code(
        "The dialect is not known",
        "Reading a row as something it is not fills fields with the wrong text.",
        "Use the field names of one of the dialects that the reason names.",
    ),
    "FT-DIALECT-002": Code(
        "The row speaks another dialect than the rest of the file",
        "Two tools wrote into one file; reading the row as the file's dialect would fill fields with the wrong text.",
        "Put the rows of each dialect into a file of their own.",
    ),
    "FT-DIALECT-003": Code(
        "The format cannot become the one that is asked for",
        "Fields that are not there would have to be made up.",
        "Convert to one of the formats that the reason names.",
    ),
    # Instruction records
    "FT-INST-001": Code(
        "A field is missing or of another type",
        "A missing text would become an empty training target.",
        "Add the field, with the type that the reason names.",
    ),
    "FT-INST-002": Code(
        "The question is empty",
        "The model would learn to answer nothing in particular.",
        "Write the question, or delete the row.",
    ),
    "FT-INST-003": Code(
        "The answer is empty",
        "The model would learn to be silent.",
        "Write the answer (outside the thinking tags), or delete the row.",
    ),
    "FT-INST-004": Code(
        "Thinking tags do not pair",
        "Reasoning would be trained on as an answer, or the answer as reasoning.",
        "One `<think>…</think>` (or `<thinking>`) at the start of the answer, and none elsewhere.",
    ),
    "FT-INST-005": Code(
        "No reasoning although it is required",
        "A thinking model trained on empty reasoning forgets to think.",
        "Add the reasoning, or set `datasets.instruction.thinking` to another policy.",
    ),
    "FT-INST-006": Code(
        "A special token of a chat template in the text",
        "The tokenizer would read it as the end of a turn: text becomes structure.",
        "Remove the token, or take the text out of its template.",
    ),
    "FT-INST-008": Code(
        "The roles are out of order",
        "A question and its answer cannot be told apart.",
        "One optional `system`, then `user` and `assistant` in turn, an answer last; no tool calls.",
    ),
    "FT-INST-009": Code(
        "The answer lost the number it began with",
        "A rule that strips `1. ` from answers also eats answers that begin with a number: 75% became %.",
        "Generate the answer again without stripping, or write the number back.",
    ),
    # Preference records
    "FT-PREF-001": Code(
        "A field is missing or of another type",
        "A missing text would become an empty training target.",
        "Add the field, with the type that the reason names.",
    ),
    "FT-PREF-002": Code(
        "The chosen or the rejected text is empty",
        "The pair teaches silence, or teaches that anything beats silence.",
        "Generate the answer again, or delete the pair.",
    ),
    "FT-PREF-003": Code(
        "Chosen equals rejected",
        "The pair says nothing, and its gradient is noise.",
        "Choose another candidate, or delete the pair.",
    ),
    "FT-PREF-004": Code(
        "Chosen is scored below rejected",
        "The pair would train the model towards the worse answer.",
        "Swap the two, or check which way the metric points.",
    ),
    "FT-PREF-005": Code(
        "A tie, or a margin that is too small",
        "The score does not tell the two apart, so the preference is a coin toss.",
        "Delete the pair, or lower `datasets.preference.min_margin`.",
    ),
    "FT-PREF-006": Code(
        "The two scores cannot be compared",
        "One is missing, or they come from different metrics.",
        "Score both texts with the same metric, or leave both scores out.",
    ),
    "FT-PREF-007": Code(
        "A special token of a chat template in the text",
        "The tokenizer would read it as the end of a turn: text becomes structure.",
        "Remove the token, or take the text out of its template.",
    ),
    "FT-PREF-008": Code(
        "The question is empty",
        "A preference without a question teaches style at best.",
        "Write the question, or delete the pair.",
    ),
    "FT-PREF-009": Code(
        "A verdict on a passage, not an answer",
        "RAG-DDR's knowledge refinement teaches YES or NO on one passage; a generator that learned it would answer so.",
        "Train the judge of passages by itself; here belongs the file of the generation module.",
    ),
    # Question and answer records
    "FT-QA-001": Code(
        "A field is missing or of another type",
        "A missing text would become an empty training target.",
        "Add the field, with the type that the reason names.",
    ),
    "FT-QA-002": Code(
        "The question is empty",
        "The model would learn to answer nothing in particular.",
        "Write the question, or take it out together with its answer.",
    ),
    "FT-QA-003": Code(
        "The answer is empty",
        "The model would learn to be silent.",
        "Generate the answer again, or take it out together with its question.",
    ),
    "FT-QA-004": Code(
        "The answer lost the number it began with",
        "A rule that strips `1. ` from answers also eats answers that begin with a number: 75% became %.",
        "Generate the answer again without stripping, or write the number back.",
    ),
    "FT-QA-005": Code(
        "Questions, answers and references differ in number",
        "Which answer belongs to which question would be a guess, and none of them is used.",
        "Write one answer, and one reference if there are any, for each question; an empty text where there is none.",
    ),
    "FT-QA-006": Code(
        "A special token of a chat template in the text",
        "The tokenizer would read it as the end of a turn: text becomes structure.",
        "Remove the token, or take the text out of its template.",
    ),
    "FT-QA-007": Code(
        "A verification without a verdict",
        "Whether the student is right would be a guess.",
        "Begin the verdict with `The student response is correct because` or `The student response is wrong because`.",
    ),
    # Retrieval pairs
    "FT-PAIR-001": Code(
        "A field is missing or of another type",
        "A missing text would be embedded as an empty one.",
        "Add the field, with the type that the reason names; positives and negatives are lists of texts.",
    ),
    "FT-PAIR-002": Code(
        "The query is empty", "Its vector would be pulled towards anything.", "Write the query, or delete the row."
    ),
    "FT-PAIR-003": Code(
        "There is no positive, or an empty one",
        "The query would be pulled towards the vector of nothing.",
        "Write the positive, take the empty one out, or delete the row.",
    ),
    "FT-PAIR-004": Code(
        "An empty negative",
        'The model learns to tell texts from nothing, which is no task; `neg: [""]` ruins a training quietly.',
        "Take it out; where there are no negatives write an empty list.",
    ),
    "FT-PAIR-005": Code(
        "A positive is among the negatives",
        "The query is pulled towards a text and pushed away from it at once.",
        "Take it out of the negatives.",
    ),
    "FT-PAIR-006": Code(
        "A list within the list of texts",
        "The inner list would be embedded as its print.",
        "Write one flat list of texts.",
    ),
    "FT-PAIR-007": Code(
        "The scores do not fit the texts",
        "Distillation would teach each text the score of another one.",
        "Write one finite number for each text, or leave the scores out.",
    ),
    "FT-PAIR-008": Code(
        "A special token of a chat template in the text",
        "The tokenizer would read it as structure.",
        "Remove the token, or take the text out of its template.",
    ),
    # Queries, judgements, passages
    "FT-QRY-001": Code(
        "A field is missing or of another type",
        "A query without id or text cannot be judged.",
        "Write `_id` and `text`.",
    ),
    "FT-QRY-002": Code("The query or its id is empty", "It would match anything.", "Write it, or delete the row."),
    "FT-QREL-001": Code(
        "A column is missing or of another type",
        "A judgement needs a query, a passage and a score.",
        "Three columns: query-id, corpus-id, score, with tabs between them.",
    ),
    "FT-QREL-002": Code("An id is empty", "The judgement belongs to nothing.", "Write the id, or delete the row."),
    "FT-QREL-003": Code(
        "The score is not a whole number",
        "Grades are counted; a rounded grade is another judgement.",
        "Write 0, 1, 2 …",
    ),
    "FT-QREL-004": Code(
        "One pair is judged twice with different scores",
        "Which of the two counts would depend on the order of the rows.",
        "Keep one of the two judgements.",
    ),
    "FT-PSG-001": Code(
        "A field is missing or of another type",
        "A passage without id or text cannot be found.",
        "Write `_id`, `title` and `text`.",
    ),
    "FT-PSG-002": Code(
        "The document's text or id is empty",
        "It would be indexed as noise.",
        "Write it, or delete the row.",
    ),
    # Across the rows of a data set
    "FT-DUP-001": Code(
        "An id is used twice",
        "Splits, vectors and reports are keyed by id: one row would stand for two.",
        "Give the second row an id of its own.",
    ),
    "FT-DUP-002": Code(
        "The same row twice",
        "It would count double, and could be trained on and tested on.",
        "Delete one of the two.",
    ),
    "FT-DUP-003": Code(
        "One question, different answers",
        "The model is pulled two ways. Both rows are kept and reported.",
        "Decide which answer is right, or make the questions say what differs.",
    ),
    # Cutting documents into passages
    "FT-CORPUS-001": Code(
        "The document is not UTF-8",
        "Guessing an encoding turns text into other text without a word.",
        "Save the file as UTF-8.",
    ),
    "FT-CORPUS-002": Code(
        "A section without text", "It would be indexed as noise.", "Write the section, or take it out."
    ),
    "FT-CORPUS-003": Code(
        "A section shorter than `corpus.min_chars`",
        "It says too little to be found or to answer with.",
        "Write the section, take it out, or lower `corpus.min_chars`.",
    ),
    "FT-CORPUS-004": Code(
        "A passage id that is already used",
        "Vectors and judgements are keyed by it: one passage would stand for two.",
        "Rename the file or the heading.",
    ),
    "FT-CORPUS-005": Code(
        "The same text as another passage",
        "It would fill two places of every result list. Its id becomes an alias: judgements that name it hold.",
        "Nothing, or keep one of the two.",
    ),
    "FT-CORPUS-006": Code(
        "Not a document format that is read here",
        "What cannot be read would be missing without a word.",
        "Convert the file, or leave it out of `corpus.files`.",
    ),
    "FT-CORPUS-007": Code(
        "A library that is needed for this is not installed",
        "Reading on without it would leave things out without a word.",
        "Install the extra that the message names.",
    ),
    # The glossary
    "FT-GLOSS-001": Code(
        "A glossary that is no mapping of terms to names",
        "Terms would be missing without a word.",
        "Write `term: [name, …]`, one term a line.",
    ),
    "FT-GLOSS-002": Code(
        "One name stands for two terms",
        "Nobody could say which of the two a text speaks of.",
        "Take the name out of one of them.",
    ),
    "FT-TERM-001": Code(
        "Too many answers name none of the terms that their questions name",
        "A model learns to speak of something else than it was asked.",
        "Name the term in the answer, or raise `datasets.max_lost_terms_share`.",
    ),
    "FT-TERM-002": Code(
        "No question names a term of the glossary",
        "The glossary and the data are about different things: its figures say nothing.",
        "Give `corpus.glossary` the terms of these questions, or check which files `datasets` names.",
    ),
    # Linking judgements with queries and passages
    "FT-LINK-001": Code(
        "A judgement of a query that does not exist", "It judges nothing.", "Add the query to the queries."
    ),
    "FT-LINK-002": Code(
        "A judgement of a passage that is not in the corpus",
        "Nothing could ever find it: recall would be measured against a ghost.",
        "Correct the id, or add the document to `corpus.files`.",
    ),
    "FT-LINK-003": Code(
        "A query that nothing answers",
        "It can neither train nor measure retrieval.",
        "Add a judgement with a score of 1 or more, or take the query out.",
    ),
    "FT-LINK-004": Code("A judgement of a query that is quarantined", "It judges nothing.", "Fix the query first."),
    # Dealing records into splits
    "FT-SPLIT-001": Code(
        "A new record that would join two splits",
        "It shares a document, a passage, a group or a question with both: in either, it leaks into the other.",
        "Give it evidence and a question of one split, or leave it out.",
    ),
    # The table gate
    "FT-TABLE-001": Code(
        "The suite cannot be used as it is written",
        "An expectation that is dropped or cannot fail leaves the gate open.",
        "Fix the suite file: expectation types and arguments as Great Expectations names them.",
    ),
    "FT-TABLE-002": Code(
        "A check is broken, the data was not judged",
        "A crashed check is neither a pass nor a finding about the data.",
        "Compare the check's columns and types with the table.",
    ),
    "FT-TABLE-003": Code(
        "The table is empty",
        "Every rule about rows holds for no rows.",
        "Look into the quarantine for what became of them.",
    ),
    "FT-TABLE-004": Code(
        "A rule about the table does not hold",
        "Later stages rely on it.",
        "Look at the rows that the violation names.",
    ),
    # Hardware
    "FT-ACC-001": Code(
        "",
        "",
        "",
    ),
    "FT-ACC-002": Code(
        "",
        "",
        "",
    ),
    # Adapters
    "FT-ADP-001": Code(
        "",
        "",
        "",
    ),
    "FT-ADP-002": Code(
        "",
        "",
        "",
    ),
    "FT-ADP-003": Code(
        "No adapter is released",
        "There is nothing to load or to export.",
        "ft run --asset released_adapter",
    ),
    "FT-ADP-004": Code(
        "The released adapter is not in the store",
        "What serves could not be loaded again.",
        "ft rollback adapter, or ft run --asset released_adapter",
    ),
    "FT-ADP-005": Code(
        "Made from another version than the one to release",
        "The scores would belong to other adapters than the ones that serve.",
        "Run `ft run --asset` for the named asset.",
    ),
    "FT-ADP-010": Code(
        "The merged model differs from base and adapter",
        "It would answer differently from the model that was evaluated.",
        "Save it with `--dtype float32`, or serve base and adapter.",
    ),
    "FT-ADP-011": Code(
        "An adapter is merged only into a full-precision base",
        "Merging into a 4-bit base costs seven times the error of the 4-bit model itself.",
        "Name the unquantised model as `base_model`.",
    ),
    "FT-ADP-012": Code(
        "The GGUF converter was not found",
        "It is a script of llama.cpp; no Python package contains it.",
        "Get llama.cpp and pass `--gguf-tool PATH/convert_hf_to_gguf.py`, or use `--merged` and convert elsewhere.",
    ),
    "FT-ADP-013": Code(
        "The GGUF converter failed",
        "Without its exit code 0 and a GGUF file there is nothing to export.",
        "Install the packages that it misses into this Python, or use a llama.cpp that knows this architecture.",
    ),
    # Answers
    "FT-ANS-001": Code(
        "",
        "",
        "",
    ),
    "FT-ANS-002": Code(
        "There is no held-out question to answer",
        "Scores on questions that were trained on measure memory, not answers.",
        "Add rows, or raise the share of validation and test in `datasets.split`.",
    ),
    "FT-ANS-003": Code(
        "A score is missing or not finite",
        "A mean over fewer questions than were asked cannot be compared.",
        "Delete the artifact of the evaluation and run it again.",
    ),
    "FT-ANS-004": Code(
        "Nothing is released",
        "The whole system is evaluated with the released adapter and collection.",
        "Run `ft run --asset` for the named asset.",
    ),
    "FT-ANS-010": Code(
        "",
        "",
        "",
    ),
    # Artifacts
    "FT-ART-001": Code(
        "",
        "",
        "",
    ),
    "FT-ART-002": Code(
        "",
        "",
        "",
    ),
    "FT-ART-003": Code(
        "",
        "",
        "",
    ),
    # Configuration
    "FT-CFG-001": Code(
        "",
        "",
        "",
    ),
    # Collections
    "FT-COL-001": Code(
        "",
        "",
        "",
    ),
    "FT-COL-002": Code(
        "",
        "",
        "",
    ),
    "FT-COL-003": Code(
        "",
        "",
        "",
    ),
    "FT-COL-004": Code(
        "",
        "",
        "",
    ),
    "FT-COL-005": Code(
        "",
        "",
        "",
    ),
    "FT-COL-006": Code(
        "",
        "",
        "",
    ),
    "FT-COL-007": Code(
        "",
        "",
        "",
    ),
    "FT-COL-008": Code(
        "",
        "",
        "",
    ),
    # Consumers
    "FT-CON-001": Code(
        "",
        "",
        "",
    ),
    "FT-CON-002": Code(
        "",
        "",
        "",
    ),
    "FT-CON-003": Code(
        "",
        "",
        "",
    ),
    # Corpus
    "FT-CORPUS-010": Code(
        "",
        "",
        "",
    ),
    "FT-CORPUS-011": Code(
        "",
        "",
        "",
    ),
    # Data sets
    "FT-DATA-001": Code(
        "",
        "",
        "",
    ),
    "FT-DATA-002": Code(
        "",
        "",
        "",
    ),
    "FT-DATA-003": Code(
        "",
        "",
        "",
    ),
    # Embedding
    "FT-EMB-001": Code(
        "",
        "",
        "",
    ),
    "FT-EMB-002": Code(
        "",
        "",
        "",
    ),
    "FT-EMB-003": Code(
        "",
        "",
        "",
    ),
    "FT-EMB-010": Code(
        "",
        "",
        "",
    ),
    "FT-EMB-011": Code(
        "",
        "",
        "",
    ),
    "FT-EMB-012": Code(
        "",
        "",
        "",
    ),
    "FT-EMB-013": Code(
        "",
        "",
        "",
    ),
    "FT-EMB-014": Code(
        "",
        "",
        "",
    ),
    "FT-EMB-015": Code(
        "",
        "",
        "",
    ),
    "FT-EMB-016": Code(
        "",
        "",
        "",
    ),
    # Estimates
    "FT-EST-001": Code(
        "",
        "",
        "",
    ),
    "FT-EST-002": Code(
        "",
        "",
        "",
    ),
    "FT-EST-003": Code(
        "",
        "",
        "",
    ),
    "FT-EST-004": Code(
        "",
        "",
        "",
    ),
    # Files
    "FT-FILE-001": Code(
        "",
        "",
        "",
    ),
    # Lineage
    "FT-LIN-001": Code(
        "",
        "",
        "",
    ),
    "FT-LIN-002": Code(
        "",
        "",
        "",
    ),
    # Models
    "FT-MODEL-001": Code(
        "",
        "",
        "",
    ),
    "FT-MODEL-002": Code(
        "",
        "",
        "",
    ),
    # Qdrant
    "FT-QDR-001": Code(
        "",
        "",
        "",
    ),
    "FT-QDR-002": Code(
        "",
        "",
        "",
    ),
    "FT-QDR-003": Code(
        "",
        "",
        "",
    ),
    "FT-QDR-004": Code(
        "",
        "",
        "",
    ),
    "FT-QDR-005": Code(
        "",
        "",
        "",
    ),
    "FT-QDR-006": Code(
        "",
        "",
        "",
    ),
    "FT-QDR-007": Code(
        "",
        "",
        "",
    ),
    "FT-QDR-008": Code(
        "",
        "",
        "",
    ),
    "FT-QDR-009": Code(
        "",
        "",
        "",
    ),
    "FT-QDR-010": Code(
        "",
        "",
        "",
    ),
    "FT-QDR-011": Code(
        "",
        "",
        "",
    ),
    # Releases
    "FT-REL-001": Code(
        "",
        "",
        "",
    ),
    "FT-REL-002": Code(
        "",
        "",
        "",
    ),
    # Retrieval
    "FT-RET-001": Code(
        "",
        "",
        "",
    ),
    "FT-RET-002": Code(
        "",
        "",
        "",
    ),
    "FT-RET-003": Code(
        "",
        "",
        "",
    ),
    "FT-RET-004": Code(
        "",
        "",
        "",
    ),
    "FT-RET-005": Code(
        "",
        "",
        "",
    ),
    "FT-RET-006": Code(
        "",
        "",
        "",
    ),
    "FT-RET-007": Code(
        "",
        "",
        "",
    ),
    "FT-RET-008": Code(
        "",
        "",
        "",
    ),
    # Splits
    "FT-SPLIT-002": Code(
        "",
        "",
        "",
    ),
    "FT-SPLIT-003": Code(
        "",
        "",
        "",
    ),
    "FT-SPLIT-004": Code(
        "",
        "",
        "",
    ),
    "FT-SPLIT-005": Code(
        "",
        "",
        "",
    ),
    "FT-SPLIT-006": Code(
        "",
        "",
        "",
    ),
    "FT-SPLIT-007": Code(
        "",
        "",
        "",
    ),
    "FT-SPLIT-008": Code(
        "",
        "",
        "",
    ),
    "FT-SPLIT-009": Code(
        "",
        "",
        "",
    ),
    "FT-SPLIT-010": Code(
        "",
        "",
        "",
    ),
    "FT-SPLIT-011": Code(
        "",
        "",
        "",
    ),
    "FT-SPLIT-012": Code(
        "",
        "",
        "",
    ),
    # Training
    "FT-TRAIN-001": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-002": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-003": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-004": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-005": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-006": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-007": Code(
        "The trainer has other rows than the gates judged",
        "TRL drops and cuts rows silently; the gates' figures would be about other rows.",
        "Report this: the preparation of TRL has changed.",
    ),
    "FT-TRAIN-008": Code(
        "bitsandbytes is not installed",
        "4-bit weights (`qlora`) and the 8-bit optimizer come from it.",
        "pip install 'ft-assets[qlora]', or set `method: lora` and `optimizer: adamw`",
    ),
    "FT-TRAIN-009": Code(
        "The tokenizer has no chat template",
        "Without one, training and serving could render the prompt differently.",
        "Choose an instruction-tuned base model.",
    ),
    "FT-TRAIN-010": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-011": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-012": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-013": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-014": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-015": Code(
        "There is nothing to train on",
        "config.yaml names no files for this data set.",
        "Name files there, or leave the adapters out of the run.",
    ),
    "FT-TRAIN-016": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-017": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-018": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-019": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-020": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-021": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-022": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-023": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-024": Code(
        "The tags of the reasoning are not paired",
        "It is unclear which part of the text is the answer.",
        "Fix the tags, or delete the row.",
    ),
    "FT-TRAIN-025": Code(
        "The gate was not judged before training",
        "The artifact comes from another version of the training, or its preflight.json was replaced.",
        "Delete the artifact and run its asset again.",
    ),
    "FT-TRAIN-026": Code(
        "",
        "",
        "",
    ),
    "FT-TRAIN-030": Code(
        "The run was stopped before its last step",
        "Nothing is published until a training is finished.",
        "Run it again: it resumes from that checkpoint.",
    ),
    "FT-TRAIN-031": Code(
        "No space for the checkpoint; the run stopped",
        "A half-written checkpoint could not be resumed from.",
        "Free space on that disk, then run again: it resumes from the checkpoint that was kept.",
    ),
    "FT-TRAIN-032": Code(
        "The checkpoint cannot be written; the run stopped",
        "Steps after it would be lost with the next interruption.",
        "Make the run folder writable for this user, then run again: it resumes from the checkpoint that was kept.",
    ),
    "FT-TRAIN-033": Code(
        "The training does not fit into memory",
        "Every allowed fallback was tried.",
        "Lower `max_length` or `lora.r`, use `method: qlora`, or allow `oom.allow_8bit` (GPUs) or `oom.allow_shorter`.",
    ),
    "FT-TRAIN-034": Code(
        "One of several processes ran out of memory",
        "The others wait for it, so the run cannot fall back by itself.",
        "Run again: it takes the fallback and resumes from the checkpoint.",
    ),
    "FT-TRAIN-035": Code(
        "Another process trains in this run folder",
        "Both would write the same checkpoints.",
        "Wait for it, or stop it.",
    ),
    "FT-TRAIN-050": Code(
        "The processes cannot share a global batch evenly",
        "The effective batch would not be the configured one.",
        "Change `global_batch_size`, `micro_batch_size` or `launcher.processes`.",
    ),
    "FT-TRAIN-051": Code(
        "Activation offloading needs a GPU",
        "On a CPU there is no GPU memory to save.",
        "Set `activation_offloading: false`.",
    ),
    "FT-TRAIN-052": Code(
        "There are fewer GPUs than processes",
        "Every process needs a GPU of its own.",
        "Lower `launcher.processes`.",
    ),
    "FT-TRAIN-053": Code(
        "Packed rows influence each other in this model",
        "An answer would be trained on the text of another row.",
        "Set `packing: false`.",
    ),
    "FT-TRAIN-054": Code(
        "DPO cannot put an adapter on a whole SFT model",
        "An adapter belongs on the base model, and `method: full` of SFT has replaced it.",
        "Set `dpo.method: full`, or train SFT with `method: lora`.",
    ),
    "FT-TRAIN-055": Code(
        "One process sees several GPUs",
        "It would run DataParallel, which trains another batch size than the configured one.",
        "Set `launcher.kind: torchrun` with `launcher.processes`, or CUDA_VISIBLE_DEVICES to one GPU.",
    ),
    # Vectors
    "FT-VEC-001": Code(
        "",
        "",
        "",
    ),
    "FT-VEC-002": Code(
        "",
        "",
        "",
    ),
    "FT-VEC-003": Code(
        "",
        "",
        "",
    ),
    "FT-VEC-004": Code(
        "",
        "",
        "",
    ),
    "FT-VEC-005": Code(
        "",
        "",
        "",
    ),
    "FT-VEC-006": Code(
        "",
        "",
        "",
    ),
}


def codes_markdown() -> str:
    """The table of all codes as Markdown, the text of docs/rules.md."""
    lines = ["| code | what | why it matters | how to fix |", "| --- | --- | --- | --- |"]
    cells = ((key, *(part.replace("|", "\\|") for part in code)) for key, code in CODES.items())
    lines += ["| " + " | ".join((f"`{key}`", *rest)) + " |" for key, *rest in cells]
    return "\n".join(lines) + "\n"
