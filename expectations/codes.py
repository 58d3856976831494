"""The rule book: one entry for every code. docs/rules.md is built from it."""

from __future__ import annotations

from typing import NamedTuple

from expectations.markdown import markdown_table


class Code(NamedTuple):
    """One rule: the title of its violation, why it matters, and how to fix it."""

    title: str
    why: str
    fix: str


CODES: dict[str, Code] = {
    # Reading: the bytes
    "FT-ROW-001": Code(
        "The row is not UTF-8",
        "A guessed encoding changes the text without a warning.",
        "Save the file as UTF-8: `iconv -f ENCODING -t UTF-8 FILE > NEW`, with the encoding it was written in.",
    ),
    "FT-ROW-002": Code(
        "The row is not JSON",
        "A lenient parser would read something different from what was written.",
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
        "Such a row can exhaust a parser's stack, and no format needs it.",
        "Flatten the row.",
    ),
    "FT-ROW-006": Code(
        "The row is longer than allowed",
        "One endless row would take all memory.",
        "Split the row, or raise `datasets.max_line_bytes`.",
    ),
    "FT-ROW-007": Code(
        "The file ends inside the row",
        "A copy or a write was interrupted, and the rows that follow are missing.",
        "Write or copy the file again; delete the last row if you know that the rest is complete.",
    ),
    "FT-ROW-008": Code(
        "The compressed file is damaged",
        "Bytes are missing or changed. None of its rows can be trusted, so none is used.",
        "Copy or compress the file again; `gzip -t FILE` must pass.",
    ),
    "FT-ROW-009": Code(
        "Half of a surrogate pair",
        "Such a text cannot be written as UTF-8, and each parser reads it differently.",
        "Write the whole character, or both halves of the pair.",
    ),
    "FT-ROW-010": Code(
        "The compressed file expands to an extreme size",
        "It may be a decompression bomb, so none of its rows is used.",
        "Check where the file comes from; decompress it yourself if the size is intended.",
    ),
    "FT-ROW-011": Code(
        "A kind of file that is not supported",
        "Supported: JSON, JSONL, CSV, TSV, also compressed (gzip, zstd); Parquet; folders of the datasets library.",
        "Convert the file to UTF-8 JSONL.",
    ),
    "FT-ROW-012": Code(
        "The file cannot be opened, or has no rows",
        "A file that cannot be read cannot be checked.",
        "Check the path and its permissions, and that the file is not empty.",
    ),
    "FT-ROW-013": Code(
        "The JSON array is broken",
        "Elements may be missing at this place.",
        "Write the array again, with one comma between two elements and nothing after `]`.",
    ),
    # Keys of a row that are not read, and change what it means
    "FT-KEY-001": Code(
        "The row is KTO data: an answer with a verdict, not an answer to learn",
        "Where the verdict is false the model would learn the bad answer.",
        "Name the file in `datasets.unpaired_preference.files` (KTO learns from both verdicts), or keep the rows whose "
        "verdict (`label`, `kto_tag`, `desired`) is true and delete the key.",
    ),
    "FT-KEY-002": Code(
        "The answer is marked as not to be learned",
        "It would be learned in spite of the mark.",
        "Delete the row, let it end with an answer that is learned, or learn its other answers with `turns: all`.",
    ),
    "FT-KEY-003": Code(
        "The row calls a tool",
        "Calls and results of tools are not trained here; the text around them would be learned as the answer.",
        "Delete the row, or write the answer that follows from the tool's result.",
    ),
    "FT-KEY-004": Code(
        "The row has images, sound or video",
        "Only text is read: the answer would be learned without what it is about.",
        "Delete the row, or describe the image in the question.",
    ),
    "FT-KEY-005": Code(
        "The row is a preference: it has a rejected answer",
        "Read as an instruction, the rejected answer is lost, or the wrong one of the two is learned.",
        "Name the file under `datasets.preference`, with the keys of one of the dialects of `preference`.",
    ),
    "FT-KEY-006": Code(
        "The passages of the row would be lost",
        "The model would learn to answer without the passages that the answer comes from.",
        "Write them under `context`, as a text or a list of texts.",
    ),
    "FT-KEY-007": Code(
        "The system text of the row would be lost",
        "The model would learn the answer without the instructions that it was given with.",
        "Write it under `system`.",
    ),
    "FT-KEY-008": Code(
        "The reasoning of the row would be lost",
        "A model that reasons would learn to answer without it.",
        "Write it under `reasoning`, or into <think> tags before the answer.",
    ),
    "FT-KEY-009": Code(
        "The scores of the row would be lost",
        "Ties and pairs in the wrong order could not be found.",
        "Write them under `chosen_score` and `rejected_score`.",
    ),
    "FT-KEY-010": Code(
        "Two keys contradict each other, or a passage has no text",
        "Which of the two was meant cannot be known.",
        "Keep one of the keys, with texts.",
    ),
    "FT-MAP-001": Code(
        "The column map names a key that is not read",
        "The column would be lost, and its key would be missing in every row.",
        "Name the key as docs/bring-your-own-data.md does, and the column after it: `question: query`.",
    ),
    "FT-MAP-002": Code(
        "The column map names a column that no row of the file has",
        "The key would be missing in every row. Where it is optional, nothing else would say so.",
        "Correct the name of the column, or give this file a map of its own.",
    ),
    "FT-MAP-003": Code(
        "The column map contradicts itself",
        "Which of the two was meant cannot be known.",
        "Give each key a column of its own, and each file one map.",
    ),
    "FT-ROW-014": Code(
        "The file is UTF-16 or UTF-32",
        "None of its lines is readable as JSON; Excel and PowerShell write such files.",
        "Convert the file: `iconv -f UTF-16 -t UTF-8 FILE > NEW`.",
    ),
    "FT-ROW-015": Code(
        "A byte order mark (BOM) inside the file",
        "Files that each begin with one were joined; the mark is no part of the row.",
        "Remove the mark from each file before they are joined: `sed -i '1s/^\\xEF\\xBB\\xBF//' FILE`.",
    ),
    "FT-ROW-016": Code(
        "A line is not one row",
        "JSONL has one whole object on each line: no pretty-printing, no raw line break in a text, no second object.",
        "Write the rows again, one a line: `jq -c . FILE > NEW.jsonl`, or `json.dumps(row)` and a line end.",
    ),
    "FT-ROW-017": Code(
        "A trailing comma",
        "JSON has commas only between two values, JSONL none between rows.",
        "Delete the comma: `sed -i 's/},[[:space:]]*$/}/' FILE` for commas at the ends of lines.",
    ),
    "FT-ROW-018": Code(
        "Python or JavaScript, not JSON",
        "Single quotes, `None`, keys without quotes and comments are not JSON; to guess at them changes texts.",
        "Write the rows with `json.dumps(row, ensure_ascii=False)`, and delete comments.",
    ),
    "FT-ROW-019": Code(
        "The rows are inside another object",
        "The file is one object around its rows: read as a single row it would lose them.",
        "Take the rows out with the command that the reason names.",
    ),
    "FT-ROW-020": Code(
        "A column holds bytes: images, sound or other files",
        "Records are texts: the bytes would be dropped, and a model would be taught about a picture that it never saw.",
        "Leave these rows out, or delete the column if the texts do not need it; cast a column of texts to string.",
    ),
    "FT-ROW-021": Code(
        "The row holds no record",
        "Its list of questions, or of paragraphs, is empty: nothing comes of the row.",
        "Fill the list, or delete the row.",
    ),
    # Tables
    "FT-TAB-001": Code(
        "The columns are those of no format",
        "A header says what the columns are; reading them as something else fills fields with the wrong text.",
        "Rename the columns in the first row to those of one of the dialects that the reason names.",
    ),
    "FT-TAB-002": Code(
        "A row has more or fewer cells than the header",
        "A delimiter or a line end within a text moves every text behind it to another column.",
        "Put texts that hold the delimiter, a quote or a line end in quotes, or write JSONL.",
    ),
    "FT-TAB-003": Code(
        "The quotes of a row are broken",
        "Until the next quote, everything is one cell: rows would vanish in a text.",
        'Close the quote; write a quote within a text as two (`""`).',
    ),
    "FT-TAB-004": Code(
        "Two columns have one name",
        "Which of the two counts would depend on the reader.",
        "Rename one of the columns, or delete it.",
    ),
    "FT-TAB-005": Code(
        "A table without a header whose columns are unknown",
        "Their number does not show it: judgements, negatives, runs and texts look alike.",
        "Write a first row that names the columns, such as `query-id`, `corpus-id`, `score`; or choose with --format.",
    ),
    "FT-TAB-006": Code(
        "A TREC run instead of judgements",
        "A run is what a search system found; as judgements it would make the system right by definition.",
        "Give the judgements (qrels: query, iteration, passage, grade).",
    ),
    # Text of any format
    "FT-TEXT-001": Code(
        "Control characters in the text",
        "A conversion left them. A model learns them, and logs and terminals execute them.",
        "Remove them in the program that wrote the file.",
    ),
    "FT-TEXT-002": Code(
        "Residue of a prompt template",
        "An empty slot or another tool's label is learned as if a person had written it.",
        "Fill the slot or remove the label, in the program that wrote the file; put one that is meant into back-ticks.",
    ),
    "FT-TEXT-003": Code(
        "An object's printed form in place of its text",
        "Scores, ids and field names of a library would become training text.",
        "Write the object's text (`node.content`, `document.page_content`) instead of the object.",
    ),
    "FT-TEXT-004": Code(
        "The row names a language that its text is not in",
        "Shares by language and language-specific cleaning would be wrong.",
        "Correct `language`, or leave it out: it is then found from the characters.",
    ),
    "FT-TEXT-005": Code(
        "The print of a missing value in place of a text",
        "A cell without a value was printed as `nan`, `None` or `null`; the model would learn to say it.",
        "Write the text, or leave the row out (in pandas: `dropna`, or `fillna('')` for an optional field).",
    ),
    "FT-TEXT-006": Code(
        "Lost characters: U+FFFD in the text",
        "A reader put the replacement character where it could not decode a byte; what was there is gone.",
        "Read the source again in its own encoding (no `errors='replace'`); cut texts between characters, not bytes.",
    ),
    "FT-TEXT-007": Code(
        "Text read in the wrong encoding (mojibake)",
        "UTF-8 was read as CP1252 or Latin-1: a model learns letters that no language has.",
        "Read the source again as UTF-8, or repair it: `text.encode('cp1252').decode('utf-8')`, or the library ftfy.",
    ),
    "FT-TEXT-008": Code(
        "An invisible control of the writing direction",
        "It shows a text in another order than it is read in: what a person checked is not what the model learns.",
        "Remove the characters U+202A to U+202E and U+2066 to U+2069.",
    ),
    "FT-TEXT-009": Code(
        "A placeholder for an image, a video or a sound",
        "Media is not read here: the model would learn to answer about what it cannot see.",
        "Leave the row out; put a placeholder that is meant as text into back-ticks.",
    ),
    "FT-VERSION-001": Code(
        "The version of the format is not supported",
        "A newer writer may have moved or redefined fields, so reading it as an older version would be a guess.",
        "Update ft-assets, or write a version that it supports (`ft convert` writes the current one).",
    ),
    "FT-DIALECT-001": Code(
        "The dialect is not known",
        "A row that is read as the wrong dialect gets the wrong text in its fields.",
        "Use the field names of one of the dialects that the reason names.",
    ),
    "FT-DIALECT-002": Code(
        "The dialect of the row differs from the rest of the file",
        "A row that is read as the wrong dialect gets wrong texts in its fields. Two tools may have written the file.",
        "Put the rows of each dialect into a file of their own.",
    ),
    "FT-DIALECT-003": Code(
        "The format cannot be converted to the requested one",
        "Missing fields would have to be invented.",
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
        "Reasoning would be trained as an answer, or an answer as reasoning.",
        "Write one `<think>…</think>` (or `<thinking>`) at the start of the answer, and none elsewhere.",
    ),
    "FT-INST-005": Code(
        "The row has no reasoning, but reasoning is required",
        "A thinking model trained on empty reasoning stops reasoning.",
        "Add the reasoning, or set `datasets.instruction.thinking` to another policy.",
    ),
    "FT-INST-006": Code(
        "A special token of a chat template in the text",
        "The tokenizer would read it as the end of a turn, not as text.",
        "Remove the token, or remove the template around the text.",
    ),
    "FT-INST-008": Code(
        "The roles are out of order",
        "It is unclear which turn is the question and which the answer.",
        "Write one optional `system`, then `user` and `assistant` in turn, with an answer last and no tool calls.",
    ),
    "FT-INST-009": Code(
        "The answer lost the number it began with",
        "A rule that strips `1. ` from answers also strips numbers that belong to the answer: `75%` becomes `%`.",
        "Generate the answer again without that rule, or add the number.",
    ),
    # Unpaired preference records (KTO)
    "FT-KTO-001": Code(
        "A field is missing or of another type",
        "A missing text would become an empty training target.",
        "Add the field, with the type that the reason names.",
    ),
    "FT-KTO-002": Code(
        "The answer has no verdict of true or false",
        "KTO learns from the verdict; a guessed one would turn good answers into bad ones.",
        "Write `label` as true or false (1 and 0 are read too). For grades, decide which of them are desirable.",
    ),
    # Preference records
    "FT-PREF-001": Code(
        "A field is missing or of another type",
        "A missing text would become an empty training target.",
        "Add the field, with the type that the reason names.",
    ),
    "FT-PREF-002": Code(
        "The chosen or the rejected text is empty",
        "The model would learn to be silent, or that any text is better than none.",
        "Generate the answer again, or delete the pair.",
    ),
    "FT-PREF-003": Code(
        "Chosen equals rejected",
        "The pair has no preference, and its gradient is noise.",
        "Choose another candidate, or delete the pair.",
    ),
    "FT-PREF-004": Code(
        "Chosen is scored below rejected",
        "The pair would train the model towards the worse answer.",
        "Swap the two, or check if a higher score of the metric is better.",
    ),
    "FT-PREF-005": Code(
        "The two scores are equal, or the margin is too small",
        "The scores do not show which answer is better, so the preference is random.",
        "Delete the pair, or lower `datasets.preference.min_margin`.",
    ),
    "FT-PREF-006": Code(
        "The two scores cannot be compared",
        "One is missing, or they come from different metrics.",
        "Score both texts with the same metric, or leave both scores out.",
    ),
    "FT-PREF-007": Code(
        "A special token of a chat template in the text",
        "The tokenizer would read it as the end of a turn, not as text.",
        "Remove the token, or remove the template around the text.",
    ),
    "FT-PREF-008": Code(
        "The question is empty",
        "A preference without a question teaches style at best.",
        "Write the question, or delete the pair.",
    ),
    "FT-PREF-009": Code(
        "The pair is a verdict on a passage, not an answer",
        "RAG-DDR's knowledge refinement answers YES or NO for one passage. A generator would learn to answer so too.",
        "Use the file of RAG-DDR's generation module here, and train the judge of passages separately.",
    ),
    "FT-PREF-010": Code(
        "Chosen and rejected belong to different dialogues",
        "A preference compares two answers to one question: a pair that differs earlier teaches something else.",
        "Cut both dialogues after the first answer that differs, or delete the pair.",
    ),
    "FT-PREF-011": Code(
        "Thinking tags do not pair",
        "It is unclear which part of the text is the answer, and training refuses the pair.",
        "One `<think>…</think>` (or `<thinking>`) at the start of the answer, and none elsewhere.",
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
        "Write the question, or remove it together with its answer.",
    ),
    "FT-QA-003": Code(
        "The answer is empty",
        "The model would learn to be silent.",
        "Generate the answer again, or remove it together with its question.",
    ),
    "FT-QA-004": Code(
        "The answer lost the number it began with",
        "A rule that strips `1. ` from answers also strips numbers that belong to the answer: `75%` becomes `%`.",
        "Generate the answer again without that rule, or add the number.",
    ),
    "FT-QA-005": Code(
        "Questions, answers and references differ in number",
        "It is unclear which answer belongs to which question, so none of them is used.",
        "Write one answer for each question, and one reference if there are any; an empty text where one is missing.",
    ),
    "FT-QA-006": Code(
        "A special token of a chat template in the text",
        "The tokenizer would read it as the end of a turn, not as text.",
        "Remove the token, or remove the template around the text.",
    ),
    "FT-QA-007": Code(
        "The verification has no verdict",
        "It is unclear if the student is right.",
        "Begin the verdict with `The student response is correct because` or `The student response is wrong because`.",
    ),
    # Retrieval pairs
    "FT-PAIR-001": Code(
        "A field is missing or of another type",
        "A missing text would be embedded as an empty one.",
        "Add the field, with the type that the reason names; positives and negatives are lists of texts.",
    ),
    "FT-PAIR-002": Code(
        "The query is empty",
        "Its vector would be trained towards unrelated texts.",
        "Write the query, or delete the row.",
    ),
    "FT-PAIR-003": Code(
        "There is no positive, or an empty one",
        "The query would be trained towards the vector of an empty text.",
        "Write the positive, remove the empty one, or delete the row.",
    ),
    "FT-PAIR-004": Code(
        "A negative is empty",
        'The model only learns that a text differs from an empty one; `neg: [""]` spoils a training without an error.',
        "Remove it; write an empty list where there are no negatives.",
    ),
    "FT-PAIR-005": Code(
        "A positive is among the negatives",
        "The query would be trained towards a text and away from it at the same time.",
        "Remove it from the negatives.",
    ),
    "FT-PAIR-006": Code(
        "There is a list inside the list of texts",
        "The printed form of the inner list would be embedded.",
        "Write one flat list of texts.",
    ),
    "FT-PAIR-007": Code(
        "The scores do not match the texts",
        "Distillation would use the score of one text for another.",
        "Write one finite number for each text, or leave the scores out.",
    ),
    "FT-PAIR-008": Code(
        "A special token of a chat template in the text",
        "The tokenizer would read it as the end of a turn, not as text.",
        "Remove the token, or remove the template around the text.",
    ),
    # Queries, judgements, passages
    "FT-QRY-001": Code(
        "A field is missing or of another type",
        "A query without id or text cannot be judged.",
        "Write `_id` and `text`.",
    ),
    "FT-QRY-002": Code(
        "The query or its id is empty", "Its vector would match unrelated passages.", "Write it, or delete the row."
    ),
    "FT-QREL-001": Code(
        "A column is missing or of another type",
        "A judgement needs a query, a passage and a score.",
        "Write three columns with tabs between them: query-id, corpus-id, score.",
    ),
    "FT-QREL-002": Code(
        "An id is empty", "It is unclear what the judgement is about.", "Write the id, or delete the row."
    ),
    "FT-QREL-003": Code(
        "The score is not a whole number",
        "Grades are whole numbers, and a rounded grade would be a different judgement.",
        "Write a whole number: 0, 1, 2.",
    ),
    "FT-QREL-004": Code(
        "One pair is judged twice with different scores",
        "The order of the rows would decide which of the two counts.",
        "Keep one of the two judgements.",
    ),
    "FT-QREL-005": Code(
        "A grade above 10 in a table without a header",
        "Three columns of ids (MS MARCO's triples) and the ranks of a run look like judgements.",
        "If it is a grade, write a first row `query-id`, `corpus-id`, `score` with tabs between them.",
    ),
    "FT-QREL-006": Code(
        "Two columns of ids without a score",
        "Lists of negatives have the same two columns: each would become a right answer.",
        "Add a column `score`; or name the file `qrels…` if every pair is a right answer.",
    ),
    "FT-PSG-001": Code(
        "A field is missing or of another type",
        "A passage without id or text cannot be found.",
        "Write `_id`, `title` and `text`.",
    ),
    "FT-PSG-002": Code(
        "The text or the id of the passage is empty",
        "It would be noise in the index.",
        "Write it, or delete the row.",
    ),
    # Across the rows of a data set
    "FT-DUP-001": Code(
        "An id is used twice",
        "Splits, vectors and reports are keyed by id: two rows would be mixed up.",
        "Give the second row its own id.",
    ),
    "FT-DUP-002": Code(
        "The same row is there twice",
        "It would count twice, and could be in training and in test.",
        "Delete one of the two.",
    ),
    "FT-DUP-003": Code(
        "One question has different answers",
        "The model would be trained towards both. Both rows are kept and reported.",
        "Decide which answer is right, or make the difference clear in the questions.",
    ),
    # Cutting documents into passages
    "FT-CORPUS-001": Code(
        "The document is not UTF-8",
        "A guessed encoding changes the text without a warning.",
        "Save the file as UTF-8.",
    ),
    "FT-CORPUS-002": Code(
        "The section has no text", "It would be noise in the index.", "Write the section, or remove it."
    ),
    "FT-CORPUS-003": Code(
        "The section is shorter than `corpus.min_chars`",
        "It is too short to be found or to answer with.",
        "Write a longer section, remove it, or lower `corpus.min_chars`.",
    ),
    "FT-CORPUS-004": Code(
        "The passage id is already used",
        "Vectors and judgements are keyed by it: two passages would be mixed up.",
        "Rename the file or the heading, or give one of the two documents another id.",
    ),
    "FT-CORPUS-005": Code(
        "The passage has the same text as another one",
        "It would take two places in result lists. Its id becomes an alias, so judgements that name it stay valid.",
        "Nothing needs to be done; you may delete one of the two.",
    ),
    "FT-CORPUS-006": Code(
        "The document format is not supported",
        "The document would be missing from the corpus without a report.",
        "Convert the file, or leave it out of `corpus.files`.",
    ),
    "FT-CORPUS-007": Code(
        "A library that this needs is not installed",
        "Without it, parts would be left out without a report.",
        "Install the extra that the message names.",
    ),
    # The glossary
    "FT-GLOSS-001": Code(
        "The glossary is not a mapping of terms to names",
        "Terms would be missing without a report.",
        "Write `term: [name, …]`, one term on each line.",
    ),
    "FT-GLOSS-002": Code(
        "One name belongs to two terms",
        "It would be unclear which of the two terms a text names.",
        "Remove the name from one of them.",
    ),
    "FT-TERM-001": Code(
        "Too many answers name none of the terms that their questions name",
        "A model would learn to answer about something other than the question.",
        "Name the term in the answer, or raise `datasets.max_lost_terms_share`.",
    ),
    "FT-TERM-002": Code(
        "No question names a term of the glossary",
        "The glossary and the data have different subjects, so the figures on terms mean nothing.",
        "Give `corpus.glossary` the terms of these questions, or check which files `datasets` names.",
    ),
    # Linking judgements with queries and passages
    "FT-LINK-001": Code(
        "A judgement names a query that does not exist", "It cannot be used.", "Add the query to the queries."
    ),
    "FT-LINK-002": Code(
        "A judgement names a passage that is not in the corpus",
        "No search could find it, so recall would be too low.",
        "Correct the id, or add the document to `corpus.files`.",
    ),
    "FT-LINK-003": Code(
        "No passage answers the query",
        "It can neither train nor measure retrieval.",
        "Add a judgement with a score of 1 or more, or remove the query.",
    ),
    "FT-LINK-004": Code("A judgement names a query that is quarantined", "It cannot be used.", "Fix the query first."),
    # Assigning records to splits
    "FT-SPLIT-001": Code(
        "A new record belongs to two splits",
        "It shares a document, a passage, a group or a question with both, so it would leak from one to the other.",
        "Give it evidence and a question of one split, or leave it out.",
    ),
    # The table gate
    "FT-TABLE-001": Code(
        "The suite cannot be used as it is written",
        "With an expectation that is dropped or cannot fail, every table would pass.",
        "Fix the suite file: use the types and arguments of expectations that Great Expectations has.",
    ),
    "FT-TABLE-002": Code(
        "A check crashed, so the data was not checked",
        "A crashed check shows nothing about the data.",
        "Compare the check's columns and types with the table.",
    ),
    "FT-TABLE-003": Code(
        "The table is empty",
        "A table without rows passes every rule on rows.",
        "Read the quarantine: it lists each missing row with its reason.",
    ),
    "FT-TABLE-004": Code(
        "A rule on the table failed",
        "Later stages rely on it.",
        "Look at the rows that the violation names.",
    ),
    # Hardware
    "FT-RAY-001": Code(
        "No Ray cluster answers at `launcher.ray.address`",
        "The worker would have nowhere to run.",
        "Start the cluster, or correct the address of its dashboard (`http://head:8265`); set RAY_AUTH_TOKEN where it "
        "asks for a token.",
    ),
    "FT-RAY-002": Code(
        "The cluster does not see the state folder",
        "Jobs, metrics and artifacts are files: what a node writes elsewhere is lost to the next step.",
        "Mount the state folder on every node and here under one path, and set FT_STATE_DIR to it.",
    ),
    "FT-RAY-003": Code(
        "The nodes of the cluster have no room for what a worker asks for",
        "Ray would keep the job waiting for ever.",
        "Lower `launcher.ray.cpus`, `gpus` or `memory_gb`, or `launcher.processes`, or add a larger node. Nodes that "
        "are started on demand do not count: keep one running.",
    ),
    "FT-RAY-004": Code(
        "The cluster has no room for an actor that encodes or generates",
        "The worker holds `cpus`, `gpus` and `memory_gb`, an actor as much again, and Ray's own tasks a CPU: it would "
        "wait for ever.",
        "Lower `launcher.ray.cpus`, `gpus` (0.5 lets two share a GPU) or `memory_gb`, set `encoders: 1` and "
        "`generators: 1`, or add a node.",
    ),
    "FT-RAY-005": Code(
        "Actors of the cluster finished nothing for a long time",
        "A pool whose nodes are gone waits without an error.",
        "Look at the dashboard of the cluster, then run it again: chunks that are encoded and calls that are answered "
        "are kept. If the model is that slow, lower `generator.batch_size`.",
    ),
    "FT-RAY-006": Code(
        "Actors of the cluster die again and again",
        "The same work would end the next one too.",
        "Memory is the usual reason: set `launcher.ray.memory_gb`, or lower `generator.batch_size`. Then run it again: "
        "chunks that are encoded and calls that are answered are kept.",
    ),
    "FT-RAY-007": Code(
        "A node of the cluster has another model of this name",
        "Its replies would be recorded as those of the model that the recipe names.",
        "Install the same version of the model's package on every node, or put its folder on the shared mount.",
    ),
    "FT-ACC-001": Code(
        "No GPU for `accelerator.device: cuda`",
        "On a CPU the same work takes many times longer, so it does not start there if the settings require a GPU.",
        "Set `accelerator.device: auto`, or fix the driver (`ft doctor` shows what is found).",
    ),
    "FT-ACC-002": Code(
        "A CPU does not train in float16",
        "A CPU has no loss scaler for float16: small gradients become 0.",
        "Set `accelerator.dtype: auto`.",
    ),
    # Adapters
    "FT-ADP-001": Code(
        "The adapter does not fit this base model",
        "Its weights only work on the base, tokenizer, chat template and stop tokens of its training; on others "
        "it answers nonsense without an error.",
        "Serve it on the base that its contract.json names, or train for what is configured now: `ft run --asset "
        "sft_adapter --asset dpo_adapter`.",
    ),
    "FT-ADP-002": Code(
        "The adapter was trained with another prompt or reasoning policy",
        "It still runs, but answers worse than it was trained to.",
        "Train for what is configured now: `ft run --asset sft_adapter --asset dpo_adapter`; or set the field "
        "back in config.yaml.",
    ),
    "FT-ADP-003": Code(
        "No adapter is released",
        "There is nothing to load or to export.",
        "Run `ft run --asset released_adapter`.",
    ),
    "FT-ADP-004": Code(
        "The released adapter is not in the store",
        "The adapter that serves could not be loaded again.",
        "Run `ft rollback adapter`, or `ft run --asset released_adapter`.",
    ),
    "FT-ADP-005": Code(
        "The asset was built from another version than the one to release",
        "Its scores would not be those of the adapter that serves.",
        "Run `ft run --asset` for the named asset.",
    ),
    "FT-ADP-010": Code(
        "The merged model differs from base and adapter",
        "It would answer differently from the model that was evaluated.",
        "Save it with `--dtype float32`, or serve base and adapter.",
    ),
    "FT-ADP-011": Code(
        "The base model of a merge is not full precision",
        "Merging into a 4-bit base costs seven times the error of the 4-bit model itself.",
        "Name the unquantised model as `base_model`.",
    ),
    "FT-ADP-012": Code(
        "The GGUF converter was not found",
        "It is a script of llama.cpp, which the extra `gguf` brings in the package auto-round.",
        "Install the extra `gguf`, or get llama.cpp and pass `--gguf-tool PATH/convert_hf_to_gguf.py`.",
    ),
    "FT-ADP-013": Code(
        "The GGUF converter failed",
        "Without its exit code 0 and a GGUF file there is nothing to export.",
        "Install the packages that it needs into this Python, or use a llama.cpp that supports this architecture.",
    ),
    "FT-ADP-014": Code(
        "The quantiser is not installed",
        "4-bit weights are made by the package auto-round; without it nothing can be written.",
        "Install the extra: `pip install 'ft-assets[gptq]'`.",
    ),
    "FT-ADP-015": Code(
        "The 4-bit weights could not be made, or compute something else",
        "A server would answer with a model that nobody has compared.",
        "Export with `--merged`, or as GGUF with `--gguf-type q8_0`; a model this small loses too much in 4 bits.",
    ),
    # Answers
    "FT-ANS-001": Code(
        "The candidate answers worse than the baseline",
        "The drop is larger than `answers.tolerance`, and chance does not explain it.",
        "Train again with other settings or data, or raise `answers.tolerance`.",
    ),
    "FT-ANS-002": Code(
        "There is no held-out question to answer",
        "Scores on questions that were trained on measure memory, not answers.",
        "Add rows, or raise the share of validation and test in `datasets.split`.",
    ),
    "FT-ANS-003": Code(
        "A score is missing or not finite",
        "A mean over only a part of the questions cannot be compared.",
        "Delete the artifact of the evaluation and run it again.",
    ),
    "FT-ANS-004": Code(
        "Nothing is released",
        "The whole system is evaluated with the released adapter and collection.",
        "Run `ft run --asset` for the named asset.",
    ),
    "FT-ANS-010": Code(
        "Too many replies never finish their reasoning",
        "A reply that ends inside its reasoning has no answer.",
        "Raise `answers.max_new_tokens`, or train on rows that close their reasoning.",
    ),
    # Questions and answers made from passages
    "FT-KBA-001": Code(
        "The reply is not one question",
        "A row needs exactly one question on one line; anything else was never asked by a person.",
        "Nothing: another attempt was made. Train the author for longer, or take a larger model, where it is frequent.",
    ),
    "FT-KBA-002": Code(
        "The question does not stand alone",
        "A user does not see the passage: `this text` or `it` refers to nothing.",
        "Nothing: another attempt was made. Prompt a larger model where it is frequent.",
    ),
    "FT-KBA-003": Code(
        "The answer is not in the passage",
        "An answer that the passage does not hold, or that lost a part, teaches a wrong fact.",
        "Nothing: the row is left out.",
    ),
    "FT-KBA-004": Code(
        "The question holds its answer",
        "It can be answered without knowing anything.",
        "Nothing: another attempt was made. Prompt a larger model where it is frequent.",
    ),
    "FT-KBA-005": Code(
        "The judge reads another answer in the passage",
        "The question does not ask for its answer, or the judge is too weak to find it.",
        "Read some of these rows with their passages. If the questions are right, take a better `kbalign.judge`.",
    ),
    "FT-KBA-006": Code(
        "The judge answers without the passage",
        "The model knows it by heart, so that the row teaches it nothing about the knowledge base.",
        "Set `kbalign.closed_book: mark` to keep such rows.",
    ),
    "FT-KBA-007": Code(
        "The retriever does not find the passage",
        "A user who asks this question gets other passages: the question is vague, or the retriever is weak.",
        "Read the questions. If they are clear, train the encoder on such pairs, or raise `kbalign.found_in_top`.",
    ),
    "FT-KBA-008": Code(
        "The question exists already",
        "A twin of a hand-written question can carry a held-out question into training.",
        "Nothing: the row is left out. `datasets.split.near_duplicate` sets how alike two questions may be.",
    ),
    "FT-KBA-009": Code(
        "The row comes too close to held-out data",
        "Training would see what validation and test measure.",
        "Nothing: the row is left out.",
    ),
    "FT-KBA-010": Code(
        "A name or a number of the question is not in the passage",
        "The author made it up.",
        "Nothing: another attempt was made.",
    ),
    "FT-KBA-011": Code(
        "The passage gives a model orders",
        "A text such as `ignore the above` could write the rows by itself.",
        "Read the passage, and remove it from the corpus if nobody should be answered from it.",
    ),
    "FT-KBA-012": Code(
        "The question needs only one passage",
        "It was to ask about several passages, and asks about one.",
        "Nothing: another attempt was made. Set `kbalign.long_per_document: 0` if it is too frequent.",
    ),
    "FT-KBA-013": Code(
        "More gap-fill questions than allowed",
        "They are easy to make and unlike the questions of people.",
        "Raise `kbalign.max_cloze_share`, or let the author ask more questions.",
    ),
    "FT-KBA-020": Code(
        "Too few candidates are verified",
        "Most of the work is lost, and what passes may pass by chance.",
        "Look at the codes on the page. Train the author for longer, prompt a larger model, or lower "
        "`kbalign.min_verified_share`.",
    ),
    "FT-KBA-021": Code(
        "A generated row is made from held-out data",
        "Validation and test would measure what training has seen.",
        "Run `ft run --group kbalign`: the split of documents has changed since the rows were made.",
    ),
    "FT-KBA-022": Code(
        "Generated answers are much longer or shorter than hand-written ones",
        "The training would teach a length, and scores would move with it.",
        "Look at the verified rows, and change `kbalign` until their answers are like yours.",
    ),
    "FT-KBA-023": Code(
        "The judge accepts wrong answers",
        "What it verifies is not verified.",
        "Take another judge (`kbalign.judge`), raise `kbalign.agree_f1`, or train the author for longer.",
    ),
    "FT-KBA-024": Code(
        "The judge refuses right answers",
        "It is too weak to find answers, so that what it accepts is a small and easy part.",
        "Take another judge (`kbalign.judge`), or train the author for longer.",
    ),
    "FT-KBA-025": Code(
        "There is no passage to ask about",
        "All passages belong to held-out documents, or the corpus is empty.",
        "Add documents that no validation or test row names.",
    ),
    "FT-KBA-026": Code(
        "There is no held-out question to judge the judge on",
        "A judge that was never measured verifies nothing.",
        "Add hand-written rows whose evidence is in the corpus, or raise `datasets.split.validation`.",
    ),
    "FT-KBA-027": Code(
        "A verified row does not say who judged it",
        "A row without a judge is not verified, whatever its table is called.",
        "Run `ft run --asset kbalign_verified`.",
    ),
    # Artifacts
    "FT-ART-001": Code(
        "The asset has no artifact yet",
        "Assets that read it have no input.",
        "Run `ft run --asset ASSET`.",
    ),
    "FT-ART-002": Code(
        "A file of an artifact is missing",
        "Part of the data would be left out without notice.",
        "Delete the artifact's folder and run `ft run --asset ASSET`.",
    ),
    "FT-ART-003": Code(
        "A file of an artifact was changed",
        "Its manifest and everything computed from it describe the earlier content.",
        "Delete the artifact's folder and run `ft run --asset ASSET`.",
    ),
    "FT-ART-004": Code(
        "An artifact that the recipe names is not in the store",
        "Another version would give a different result under the same recipe.",
        "Run `ft run --asset ASSET`.",
    ),
    "FT-ART-005": Code(
        "The file that names an asset's current artifact is damaged",
        "Which of its artifacts is current cannot be known.",
        "Delete the file and run `ft run --asset ASSET`: an artifact that is whole is reused.",
    ),
    "FT-ART-006": Code(
        "A file that was not published is in an artifact's folder",
        "A library that loads the folder would read it too.",
        "Delete the file, or delete the artifact's folder and run `ft run --asset ASSET`.",
    ),
    "FT-ART-007": Code(
        "The manifest of an artifact is damaged",
        "It is the proof of what the files are; nothing in the folder can be trusted without it.",
        "Run `ft run --asset ASSET`: the folder is set aside and the artifact is made again.",
    ),
    "FT-ART-008": Code(
        "A newer version of ft made the artifact",
        "It is whole, and this version does not know all that it states: made again here, it would be lost.",
        "Use the newer version on this state, or this one on a state of its own (FT_STATE_DIR).",
    ),
    "FT-ART-009": Code(
        "The bucket that FT_STORE_URL names cannot be used",
        "Artifacts and releases are in it, and two machines that write without conditions could overwrite each other.",
        "Look at the address, the credentials in the environment and the network, or unset FT_STORE_URL for a state on "
        "this machine alone.",
    ),
    "FT-ART-010": Code(
        "A figure in a manifest is not that of the artifact's files, or is missing",
        "Gates judge the figures of the manifest: by an edited one, a candidate that is worse would be released.",
        "Delete the artifact's folder and run `ft run --asset ASSET`.",
    ),
    # Configuration
    "FT-CFG-001": Code(
        "A setting is invalid",
        "A run would use values that nobody wrote. The last valid settings stay in use instead.",
        "Correct the setting in config.yaml, the profile or the environment.",
    ),
    "FT-CFG-002": Code(
        "config.yaml does not have this section",
        "The asset has no settings to be made with.",
        "Add the section, or leave the asset out of the run.",
    ),
    # Collections
    "FT-COL-001": Code(
        "The collection is not complete",
        "A passage without a point, or a point without one of its two vectors, is never found; Qdrant accepts "
        "both silently.",
        "Run `ft run --asset qdrant_collection` (it continues a half-built collection).",
    ),
    "FT-COL-002": Code(
        "The collection was built under another contract",
        "Its vectors do not fit the queries that the current model and settings make.",
        "Build a new collection next to it: `ft run --group retrieval`.",
    ),
    "FT-COL-003": Code(
        "The engine's configuration is not the one in the contract",
        "With another dimension or distance every score is wrong.",
        "Delete this collection in Qdrant, then run `ft run --group retrieval`.",
    ),
    "FT-COL-004": Code(
        "A stored vector is not the one that was encoded",
        "The ranking would follow vectors that no model made.",
        "Delete this collection in Qdrant, then run `ft run --group retrieval`.",
    ),
    "FT-COL-005": Code(
        "Another contract is stored under this name",
        "The name follows from the contract: another program wrote this collection, or someone changed it.",
        "Delete this collection in Qdrant, then run again.",
    ),
    "FT-COL-006": Code(
        "The collection is missing",
        "An alias or a search would name a collection that does not exist.",
        "Run `ft run --asset qdrant_collection`.",
    ),
    "FT-COL-007": Code(
        "The collection does not hold the current passages",
        "Searches would return old text, and miss new text.",
        "Run `ft run --asset qdrant_collection` (it writes only what differs).",
    ),
    "FT-COL-008": Code(
        "The engine has no such collection or alias",
        "There is nothing to search in.",
        "Open the engine that config.yaml names (`qdrant`), or run `ft run --asset released_collection --upstream`.",
    ),
    # Consumers
    "FT-CON-001": Code(
        "The consumer contract cannot be read",
        "The needs of this consumer would not be checked.",
        "Correct the file; its keys are those of `Consumer` in expectations/contracts/consumer.py.",
    ),
    "FT-CON-002": Code(
        "A consumer does not accept this candidate",
        "The module that relies on it would break at the release.",
        "Change the setting back, or agree with the owner and change the contract in expectations/contracts/consumers.",
    ),
    "FT-CON-003": Code(
        "A consumer reads or writes another version of a format",
        "One of the two sides could not read the other's files.",
        "Convert to a version that both sides know, or agree with the owner on the new one.",
    ),
    # Corpus
    "FT-CORPUS-010": Code(
        "Two passages have the same id",
        "Vectors and judgements are keyed by it: two passages would be mixed up.",
        "Rebuild the table: `ft run --asset passages`.",
    ),
    "FT-CORPUS-011": Code(
        "A passage differs from its source",
        "Its offsets would point readers to another text.",
        "Rebuild the table: `ft run --asset passages`.",
    ),
    "FT-CORPUS-012": Code(
        "Too much of the corpus is in the quarantine",
        "Questions about the missing documents find nothing, or a passage that does not answer them.",
        "Read quarantine.jsonl and fix the files, or raise `corpus.max_quarantined_share` in config.yaml.",
    ),
    "FT-CORPUS-013": Code(
        "A field of `corpus.payload` cannot be stored",
        "A filter compares values of one type: it would leave out the others without a report.",
        "Write values of one type (text, number, bool, list of texts), or leave the field out of `corpus.payload`.",
    ),
    "FT-CORPUS-014": Code(
        "The passages are not cut to what the encoder reads",
        "It would not read the ends of long passages, or could read more context than they have.",
        "Set `corpus.max_tokens` to the number that you want; nothing is cut again before.",
    ),
    # Data sets
    "FT-DATA-001": Code(
        "Too many rows are in the quarantine",
        "The rows that are left may not represent the whole data set.",
        "Read quarantine.jsonl and fix the files, or raise `datasets.max_quarantined_share` in config.yaml.",
    ),
    "FT-DATA-002": Code(
        "The rows that were read are not all accounted for",
        "Each row must be in the table or in the quarantine; here rows were lost or invented.",
        "Rebuild the table with `ft run --asset` and the name of the asset.",
    ),
    "FT-DATA-004": Code(
        "A key of the rows is not read",
        "What it holds does not reach the records; under `datasets.strict` that is an error.",
        "Rename the key to one that is read, delete it, or set `datasets.strict: false`.",
    ),
    "FT-DATA-003": Code(
        "The configured files hold no rows",
        "A data set without rows passes every rule about rows.",
        "Correct the files, or remove them from config.yaml.",
    ),
    # Pairs of sampled answers
    "FT-DDR-001": Code(
        "A model gives the same answer every time",
        "There is no other answer to prefer it to.",
        "Nothing, or add a temperature to `ddr.temperatures`.",
    ),
    "FT-DDR-002": Code(
        "All answers to a question have the same score",
        "The scores do not show which answer is better, so the preference would be random.",
        "Nothing, or raise `ddr.samples`.",
    ),
    "FT-DDR-003": Code(
        "The scores of the answers differ by less than the margin",
        "Small differences of a score are noise, and pairs of them make DPO worse.",
        "Nothing, or lower `ddr.min_margin` (no answer is generated again).",
    ),
    "FT-DDR-004": Code(
        "No answer is right enough to be chosen",
        "The best of several wrong answers is wrong: the pair would train it.",
        "Nothing, or lower `ddr.min_chosen` (no answer is generated again).",
    ),
    "FT-DDR-005": Code(
        "A reply has no answer: its reasoning is not closed",
        "Nothing can be scored, and a text without an end teaches not to stop.",
        "Raise `ddr.max_new_tokens` if there are many.",
    ),
    "FT-DDR-006": Code(
        "No answer to a question can be used",
        "All of them were cut, are empty, or never came.",
        "See the codes of its answers in the quarantine of `ddr_candidates`.",
    ),
    "FT-DDR-007": Code(
        "The best answer has other numbers than the right one",
        "`128 bits` is half of `512 bits` for a score, and a false fact for a reader.",
        "Nothing, or correct the row's answer if it is the wrong one.",
    ),
    "FT-DDR-008": Code(
        "A pair holds a text that validation or test hold out",
        "Training would see it, and figures on the held-out questions would be too good.",
        "Nothing: the pair is not used.",
    ),
    "FT-DDR-010": Code(
        "A published pair breaks the rules of `ddr`",
        "It would train a wrong answer, or noise.",
        "Run `ft run --asset ddr_preferences`.",
    ),
    "FT-DDR-011": Code(
        "A pair is made of a held-out question or passage",
        "Training would see what validation or test measure, and their figures would be too good.",
        "Run `ft run --asset ddr_candidates`: answers that are still allowed are not generated again.",
    ),
    "FT-DDR-012": Code(
        "The chosen answers are much longer or shorter than the right ones",
        "DPO would learn the length instead of the answer.",
        "Compare the samples on the asset's page; then raise `ddr.min_chosen`, or change `ddr.reward`.",
    ),
    "FT-DDR-013": Code(
        "No question gave a pair",
        "DPO would have nothing to train on.",
        "See why in the codes: raise `ddr.max_new_tokens` if answers are cut, `ddr.samples` if they are alike, or "
        "train the model for longer.",
    ),
    "FT-DDR-014": Code(
        "There are no questions to answer",
        "Pairs are made from training questions with a right answer.",
        "Add `datasets.instruction.files`.",
    ),
    "FT-DDR-020": Code(
        "The adapter that `ddr.parent` names is not in the store",
        "A later round needs the model of the round before, and it cannot be trained again unnoticed.",
        "Write the recipe id of an adapter that `ft status` shows, or start again with `ddr.round: 1`.",
    ),
    "FT-DDR-021": Code(
        "The adapter that `ddr.parent` names does not fit",
        "It was trained on another base, or for another prompt, so its answers are not those of the model to train.",
        "Name an adapter of the present base and prompt in `ddr.parent`, or start again with `ddr.round: 1`.",
    ),
    "FT-DDR-022": Code(
        "No collection was released yet",
        "Prompts have the passages that users would be shown.",
        "Run `ft run --asset released_collection --upstream`.",
    ),
    # Embedding
    "FT-EMB-001": Code(
        "The embedding contract cannot be read",
        "Without it, it is unknown which model the vectors fit.",
        "Build model and collection with this release: `ft run --group embedding --group retrieval`.",
    ),
    "FT-EMB-002": Code(
        "The vectors and the model do not belong together",
        "Scores between vectors of different models mean nothing, even where the dimension is the same.",
        "Build the collection with this model: `ft run --group retrieval`.",
    ),
    "FT-EMB-003": Code(
        "The model was not trained for this dimension",
        "Shortened vectors are only good at dimensions that the training included.",
        "Set `retrieval.dimension` to a trained dimension, or add it to `embedding.matryoshka` and train again.",
    ),
    "FT-EMB-010": Code(
        "No batch has two or more questions",
        "The loss compares the passages of a batch: with one question there is nothing to compare.",
        "Add retrieval data, or check `retrieval_splits` and `embedding.batch_size`.",
    ),
    "FT-EMB-011": Code(
        "A loss is not finite",
        "The weights after such a step are useless.",
        "Lower `embedding.learning_rate`, then run `ft run --group embedding`.",
    ),
    "FT-EMB-012": Code(
        "Training changed no parameter",
        "The result is the base model under a new name.",
        "Check `embedding.learning_rate` and retrieval_splits, then run `ft run --group embedding`.",
    ),
    "FT-EMB-013": Code(
        "The lexical head has collapsed",
        "Too many probe texts have no token with a weight: the sparse arm finds nothing for them (FlagEmbedding #982).",
        "Lower `embedding.head_learning_rate` or raise `embedding.sparse_temperature`, then run `ft run --group "
        "embedding`.",
    ),
    "FT-EMB-014": Code(
        "The model no longer gives a probe its recorded vector",
        "Something outside the contract has changed, for example a library. Old and new vectors do not fit.",
        "Install the library versions that the contract names, or run `ft run --group embedding`.",
    ),
    "FT-EMB-015": Code(
        "Training made the fused ranking worse",
        "The base model would serve better.",
        "Train more gently (`learning_rate`, `epochs`), or set `embedding.epochs: 0`.",
    ),
    "FT-EMB-016": Code(
        "No question of the split names a passage of this corpus",
        "Without questions an evaluation has nothing to measure.",
        "Add retrieval data, then `ft run --group datasets`.",
    ),
    "FT-EMB-020": Code(
        "The encoder's vocabulary does not know the texts",
        "All unknown tokens are the same to an encoder: it cannot tell such texts apart, whatever the training.",
        "Choose an `embedding.base_model` for the languages of the corpus, or raise `embedding.max_unknown_share`.",
    ),
    "FT-EMB-021": Code(
        "Every epoch of the training is worse than the base model",
        "The base model is kept: on the validation questions it certainly ranks better than each epoch.",
        "Lower `embedding.learning_rate`, add training questions, or set `embedding.epochs: 0`.",
    ),
    "FT-EMB-022": Code(
        "The model has no lexical head",
        "`retrieval.lexical: learned` needs the head of a training with `embedding.lexical_head: true`.",
        "Run `ft run --group embedding`, or set `retrieval.lexical: bm25`.",
    ),
    "FT-EMB-023": Code(
        "The tokenizer does not tell where its tokens are in a text",
        "Factors of BM25 are read from the tokens that a term is made of.",
        "Choose an `embedding.base_model` with a fast tokenizer (`tokenizer.json`), or set `retrieval.lexical: bm25` "
        "and `embedding.bm25_factors: false`.",
    ),
    "FT-EMB-024": Code(
        "The model has no factors of BM25, and none were tried",
        "`retrieval.lexical: bm25_learned` needs a training with `embedding.bm25_factors: true`, which judges them.",
        "Run `ft run --group embedding`, or set `retrieval.lexical: bm25`.",
    ),
    "FT-EMB-025": Code(
        "The teacher has no wrong passages to tell apart",
        "With one passage for each question its scores are no ranking, and teach nothing.",
        "Set `embedding.hard_negatives: 1` or more, add passages that are judged wrong, or remove `embedding.teacher`.",
    ),
    "FT-EMB-026": Code(
        "The training of an encoder was started as several processes",
        "Each would take the passages of its own batches as the wrong ones, and publish a model of its own.",
        "Start it as one process, as every launcher of `ft` does; `launcher.processes` is for adapters.",
    ),
    # Estimates
    "FT-EST-001": Code(
        "The hub gave no config.json",
        "Memory and time follow from the model's sizes.",
        "Check the name and `HF_TOKEN`, set `HF_ENDPOINT` to a mirror, or name a folder or the model's sizes.",
    ),
    "FT-EST-002": Code(
        "The model's sizes cannot be read",
        "Memory and time follow from them.",
        "Name a model's folder, or its sizes: `ft estimate --layers 36 --hidden 2560 --heads 32 ...`.",
    ),
    "FT-EST-003": Code(
        "This kind of model cannot be estimated",
        "In a model with experts, only some of the weights work on a token, so the formulas would be wrong.",
        "Choose a dense model.",
    ),
    "FT-EST-004": Code(
        "4-bit weights cannot be sharded",
        "They are stored in blocks that FSDP2 and ZeRO-3 cannot split.",
        "Train with qlora on each GPU (DDP), or shard with method lora.",
    ),
    # Files
    "FT-FILE-001": Code(
        "A glob matches no file",
        "An empty corpus or data set would look like a finished one.",
        "Correct the glob in config.yaml; relative paths start at its folder.",
    ),
    # Generated text
    "FT-GEN-001": Code(
        "Calls had no answer after all attempts",
        "A result without them would count as finished, and they would never be asked again.",
        "See that the server is up, then run again: only the missing calls are asked.",
    ),
    "FT-GEN-002": Code(
        "The server refused the request",
        "The call has no answer, and the same request would be refused again.",
        "Read the server's text: a content filter, a parameter or a length. Change the prompt or the server.",
    ),
    "FT-GEN-003": Code(
        "The text was cut by the limit of new tokens",
        "Half a question or half an answer would be trained.",
        "Raise `max_new_tokens` of the section that asked.",
    ),
    "FT-GEN-004": Code(
        "The reply is not a text",
        "An empty reply or a page of a proxy is no answer of a model.",
        "Ask the endpoint with curl and look at the reply; correct `generator.url`.",
    ),
    "FT-GEN-005": Code(
        "The prompt is too long for the model",
        "A model that reads only a part of a prompt answers another question.",
        "Cut passages shorter, show fewer of them, or use a model that reads more.",
    ),
    "FT-GEN-006": Code(
        "The server does not read the whole prompt",
        "The model answers without the passage, and nobody sees it. Ollama cuts at `num_ctx` without a word.",
        "Raise the server's context (`num_ctx`, `--max-model-len`, `n_ctx` for each slot), or lower "
        "`generator.context_tokens`.",
    ),
    "FT-GEN-007": Code(
        "Another model replied",
        "Some servers answer with whatever is loaded. Rows would name a model that did not write them.",
        "Write the name that the server has into `generator.model`, or load that model there.",
    ),
    "FT-GEN-008": Code(
        "The key would travel unencrypted",
        "Whoever reads the traffic could use it.",
        "Use an https URL, or unset FT_GENERATOR_API_KEY.",
    ),
    "FT-GEN-009": Code(
        "The endpoint does not answer as a chat completion server",
        "No call could be answered.",
        "Correct `generator.url` (up to /v1) and FT_GENERATOR_API_KEY, and see that the server is up.",
    ),
    "FT-GEN-010": Code(
        "The budget of tokens is spent",
        "Nothing half done is published. All answers are kept.",
        "Run again to continue with a new budget of the same size, or raise `generator.max_tokens_total`.",
    ),
    "FT-GEN-011": Code(
        "The call cache is damaged",
        "A reply that is not what the model said must not become training data.",
        "Delete its folder. All calls are asked again then.",
    ),
    # Generated rows in a training
    "FT-JOIN-001": Code(
        "More generated rows were trained than the settings allow",
        "The model would learn its own mistakes from more rows than people wrote.",
        "Run `ft run --asset sft_adapter`, or raise `sft.generated_share`.",
    ),
    # Lineage
    "FT-LIN-001": Code(
        "An input has changed since the artifact was built from it",
        "The artifact does not belong to the current inputs.",
        "Build it again with `ft run --asset`, then everything that is built from it.",
    ),
    "FT-LIN-002": Code(
        "Another run changed the artifact while it was checked or read",
        "Different versions would have been read: no version passed all checks, or what was made had a wrong one.",
        "Run the asset again: `ft run --asset NAME`.",
    ),
    "FT-LIN-003": Code(
        "A source file was changed while it was read",
        "What was read of it would be kept under the version that it had before.",
        "Run the asset again when the file is whole: `ft run --asset NAME`.",
    ),
    # Models
    "FT-MODEL-001": Code(
        "The model cannot be found",
        "Nothing can be trained, encoded or answered without it.",
        "Check the name or the path in config.yaml.",
    ),
    "FT-MODEL-002": Code(
        "The model is not here, and the hub did not give it",
        "Nothing can be trained, encoded or answered without it.",
        "Reach the hub, set `HF_ENDPOINT` to a mirror, or put the model in a folder and name that folder.",
    ),
    "FT-MODEL-003": Code(
        "A file of the converted model was changed",
        "Everything that is trained or answered with it would be of another model than the package's.",
        "Delete the folder `models/NAME` of the state: the next run converts the package again.",
    ),
    "FT-MODEL-004": Code(
        "A text cannot become a new token of the model",
        "It is a token already, or has nothing in it, so that no row of the embedding would be new.",
        "Leave it out. A token that is there already can be trained: name it in `lora.train_tokens`.",
    ),
    # Qdrant
    "FT-QDR-001": Code(
        "Another process has the embedded engine open",
        "Two writers in one folder would destroy each other's points.",
        "Wait for that process or end it, raise `qdrant.lock_timeout`, or use a server (`qdrant.engine: server`).",
    ),
    "FT-QDR-002": Code(
        "The API key would travel unencrypted",
        "Whoever reads the traffic could use it.",
        "Use an https URL, or unset QDRANT_API_KEY. On a private network, name the server in FT_PRIVATE_HOSTS.",
    ),
    "FT-QDR-003": Code(
        "The server does not answer as Qdrant does",
        "Collections can be neither built nor searched.",
        "Start it, or fix `qdrant.url` and QDRANT_API_KEY.",
    ),
    "FT-QDR-004": Code(
        "The local engine is too slow at this size",
        "It compares a query with every point in Python, which is fine up to 20,000 points.",
        "Run `ft migrate --to edge`, or `ft migrate --to server --url URL`.",
    ),
    "FT-QDR-005": Code(
        "The collection is released under an alias",
        "It answers the queries: without it every query fails.",
        "Move the alias first (`ft rollback collection`, or a new release).",
    ),
    "FT-QDR-006": Code(
        "Some vectors would spoil the collection",
        "Some engines take them without an error, and search results would then be wrong.",
        "Run `ft run --asset passage_vectors`.",
    ),
    "FT-QDR-007": Code(
        "A shard of the edge engine cannot be opened or read",
        "Its points cannot be searched.",
        "Delete the shard's folder, then run `ft run --asset qdrant_collection`.",
    ),
    "FT-QDR-008": Code(
        "The library of the edge engine is not installed",
        "`qdrant.engine: edge` runs in this process and needs it.",
        "Run `pip install 'ft-assets[platform]'`, which has it, or set `qdrant.engine: local`.",
    ),
    "FT-QDR-009": Code(
        "The two engines score differently",
        "After a migration the same query must get the same scores.",
        "Delete that collection in the target engine, then run `ft migrate` again.",
    ),
    "FT-QDR-010": Code(
        "The two engines rank differently",
        "After a migration the same query must get the same passages.",
        "Delete that collection in the target engine, then run `ft migrate` again.",
    ),
    "FT-QDR-011": Code(
        "The files of the local engine cannot be read",
        "Its points cannot be searched.",
        "Move the damaged folder away, then run `ft run --asset qdrant_collection`. It reads the stored vectors.",
    ),
    "FT-QDR-012": Code(
        "A file of the embedded engine was changed since it was closed",
        "Neither engine has a checksum on vectors: a flipped bit would change what a search finds.",
        "Delete the folder that the message names, then run `ft run --asset qdrant_collection`: it is built again from "
        "vectors that are kept.",
    ),
    "FT-QDR-013": Code(
        "The server does not build the index of a collection",
        "Every search would compare with every point, and the gates would judge another ranking than what then serves.",
        "Read the server's log (a full disk, or too little memory), then run the same command again.",
    ),
    # Releases
    "FT-REL-001": Code(
        "There is no such release",
        "Only what was released before is known to have passed its gates.",
        "Choose one with `--to`; `ft rollback KIND --list` shows them.",
    ),
    "FT-REL-002": Code(
        "Artifacts of the release are no longer kept",
        "It could not give the same answers as before.",
        "Choose another release (`ft rollback KIND --list`); `artifacts.keep` decides how many are kept.",
    ),
    "FT-REL-003": Code(
        "The record of releases is damaged",
        "It is the only list of what was judged before it served.",
        "Restore the file from a backup. Without one, delete it and run `ft run --asset released_collection` (or "
        "`released_adapter`): the candidate is released after its gates, and the history is lost.",
    ),
    "FT-REL-004": Code(
        "The alias serves a collection, and there is no record of releases",
        "Nothing proves that what serves was ever judged.",
        "Restore `released/collection.json` from a backup. If it is lost, or was another state's, begin a new record: "
        "`FT_NEW_HISTORY=ALIAS ft run --asset released_collection`.",
    ),
    "FT-REL-005": Code(
        "The alias does not name the collection of the current release",
        "Another collection than the one that was judged answers, or none does.",
        "Find out who moved the alias, then run `ft rollback collection --to VERSION` with the version of the current "
        "release: it points the alias there.",
    ),
    "FT-REL-006": Code(
        "The served collection is not configured as it was released",
        "Its fusion, its contract or its vectors' form was changed after the release, and so was the ranking.",
        "Run `ft rollback collection --to VERSION` with the version of the current release: it writes the fusion that "
        "was judged. Another contract needs a new collection: `ft run --group retrieval`.",
    ),
    "FT-REL-007": Code(
        "The preferred adapter was not evaluated",
        "Only an adapter that answered the held-out questions may be released.",
        "Set `release.prefer: best`, or train the one that it names and run `ft run --asset adapter_evaluation`.",
    ),
    "FT-REL-008": Code(
        "The candidate is not the best adapter on the validation questions",
        "`release.prefer` names another one, which answered worse.",
        "Set `release.prefer: best`, unless you know why.",
    ),
    "FT-REL-009": Code(
        "A newer version of ft wrote the record of releases",
        "This version would drop what it does not know.",
        "Use the newer version on this state, or this one on a state of its own (FT_STATE_DIR).",
    ),
    # Retrieval
    "FT-RET-001": Code(
        "The fused ranking is worse than one of its arms",
        "Fusion then costs quality: the better arm alone would rank better.",
        "Set `retrieval.fusion: auto`, or the weights that `fusion_sweep` recommends.",
    ),
    "FT-RET-002": Code(
        "The fused ranking finds too little",
        "The generator cannot answer from passages that it is not given.",
        "Train more, or lower `retrieval.min_recall_at_10`.",
    ),
    "FT-RET-003": Code(
        "The candidate ranks worse than the released collection",
        "The loss is larger than `retrieval.tolerance`, and chance does not explain it.",
        "Fix the candidate, or raise `retrieval.tolerance`.",
    ),
    "FT-RET-004": Code(
        "The evaluation is of another candidate than the one to release",
        "Its figures describe another collection, fusion or comparison.",
        "Run `ft run --asset retrieval_evaluation`.",
    ),
    "FT-RET-005": Code(
        "The query has another dimension than the collection",
        "The query was encoded by another model; its scores would mean nothing.",
        "Encode queries with the model that the collection's contract names.",
    ),
    "FT-RET-006": Code(
        "Nothing is released under this alias",
        "A search reads the collection that the alias names, and there is none.",
        "Run `ft run --asset released_collection --upstream`.",
    ),
    "FT-RET-007": Code(
        "No model in the store made the vectors of this collection",
        "Query vectors of another model rank passages almost at random, without an error, even at an equal dimension.",
        "Run `ft run --group embedding --group retrieval`.",
    ),
    "FT-RET-010": Code(
        "The engine ranks worse than the exact scores of the same vectors",
        "What serves is then not what was measured: its index or its prefetch loses passages that the model finds.",
        "Raise `retrieval.prefetch_limit`, then `ft run --asset retrieval_evaluation`.",
    ),
    "FT-RET-009": Code(
        "The condition of a search cannot be met",
        "A misspelt field, or a text where a number is stored, would look like a corpus without an answer.",
        "Name a field of `corpus.payload`, as `--where tenant=a`, or `--where 'year>=2020'` for a number.",
    ),
    "FT-RET-011": Code(
        "The served ranking is worse than BM25",
        "A search without any model would answer better, at no cost.",
        "Set `retrieval.fusion: auto`, or choose a base model that knows the language of the corpus.",
    ),
    "FT-RET-012": Code(
        "There is nothing to search for",
        "An empty text has a vector too, and the passages next to it would look like answers.",
        "Ask a question with letters or digits.",
    ),
    "FT-RET-013": Code(
        "The question holds characters that no text has",
        "Half a character or a control character comes from a wrong decoding; the model would encode something else.",
        "Send the question as UTF-8, without control characters.",
    ),
    "FT-RET-014": Code(
        "The weights of the fusion were not chosen for the current settings",
        "With `retrieval.fusion: auto` the weights come from `fusion_sweep`; another setting may need others.",
        "Run `ft run --asset fusion_sweep`.",
    ),
    "FT-RET-015": Code(
        "The ranking needs a rerank model that is not here",
        "Without that model a search gives another ranking than the one that was evaluated and released.",
        "Bring back the model that the message names. To release with another one, change `retrieval.rerank` and run "
        "`ft run --asset released_collection --upstream`; where what is live cannot be measured, see FT-RET-008.",
    ),
    "FT-RET-016": Code(
        "The rerank model makes the ranking worse",
        "Every search would take longer to give a worse answer.",
        "Remove `retrieval.rerank`, or name a cross-encoder that knows the language of the corpus.",
    ),
    "FT-RET-017": Code(
        "The model is not a cross-encoder with one score for a pair",
        "A head that was never trained, or one for classes, would put passages in a random order.",
        "Set `retrieval.rerank.model` or `embedding.teacher.model` to a cross-encoder for ranking, such as those of "
        "sentence-transformers.",
    ),
    "FT-RET-018": Code(
        "The cross-encoder is to read more tokens than it has positions for",
        "A longer pair of question and passage would end the training or the search with an error.",
        "Lower `retrieval.rerank.max_tokens` or `embedding.teacher.max_tokens`, whichever names this model, to what is "
        "expected.",
    ),
    "FT-RET-019": Code(
        "The index or the quantized vectors lose passages that an exact search finds",
        "Some questions get no answer although the model finds it, also where no judged question shows it.",
        "Raise `oversampling` (with quantization), `hnsw_ef_construct` or `hnsw_m` in `qdrant.storage`, then `ft run "
        "--asset retrieval_evaluation --upstream`.",
    ),
    "FT-RET-008": Code(
        "The candidate cannot be compared with the released collection",
        "A release that ranks worse would go unnoticed.",
        "Run `ft rollback collection --to` a release that still exists, or set `retrieval.tolerance: 1` (any loss is "
        "accepted) for this one; then `ft run --asset released_collection --upstream`.",
    ),
    # The lexical arm
    "FT-LEX-001": Code(
        "There is no stemmer for this language",
        "Words of a query would not meet the stems that passages store.",
        "Set `retrieval.language` to `auto`, `none` or a language that the message lists.",
    ),
    "FT-LEX-002": Code(
        "The terms of a text are not those that the collection was built with",
        "Another version of the stemmer gives other terms: a query would silently find fewer passages.",
        "Install the version of PyStemmer that constraints.txt names, or run `ft run --group retrieval`.",
    ),
    "FT-LEX-003": Code(
        "The table of document frequencies is not the one of the contract",
        "Queries would weigh their terms by another corpus, which is another ranking than the one that was judged.",
        "Run `ft run --group retrieval`, or `ft rollback collection --to` a release that is whole.",
    ),
    "FT-LEX-004": Code(
        "The lexical arm of the collection is not BM25",
        "Terms of BM25 and tokens of a learned head are different numbers: a query would match at random.",
        "Query with the embedding model of the collection, or set `retrieval.lexical: bm25` and release again.",
    ),
    # Runs
    "FT-RUN-001": Code(
        "A database of Dagster is damaged",
        "Runs can be neither recorded nor shown. Artifacts, releases and searches do not need it.",
        "Move the folder that is named away: the history of runs is lost, and artifacts are reused.",
    ),
    # Splits
    "FT-SPLIT-002": Code(
        "A split is empty",
        "There is nothing to train on, to validate with or to test on.",
        "Add data, or change `datasets.split.key` (it assigns every cluster again) together with the split's "
        "share or `datasets.split.group_by` (smaller clusters) in config.yaml.",
    ),
    "FT-SPLIT-003": Code(
        "A record is in the splits twice",
        "It would count twice, or be in training and in test.",
        "Build the splits again with `ft run --asset`.",
    ),
    "FT-SPLIT-004": Code(
        "A cluster is in more than one split",
        "Its records share a document, a passage or a question, so test rows would be known from training.",
        "Change `datasets.split.key` in config.yaml (it assigns every cluster again).",
    ),
    "FT-SPLIT-005": Code(
        "A record moved to another split, or left the ledger",
        "Models that were trained before have seen it: a test on it is worthless.",
        "Delete this version of the ledger and run `ft run --asset split_ledger`.",
    ),
    "FT-SPLIT-006": Code(
        "A document, passage, group or question is in two splits",
        "The test would use texts that training has seen.",
        "Give the record that was edited a new id, or change `datasets.split.key` in config.yaml (it assigns "
        "every cluster again).",
    ),
    "FT-SPLIT-007": Code(
        "A split's share is far from the requested one",
        "With too few rows its figures are noise; too many rows are missing in training.",
        "Change `datasets.split.key` in config.yaml (it assigns every cluster again).",
    ),
    "FT-SPLIT-008": Code(
        "A record is not in the split that the ledger names",
        "Only the ledger keeps train and test rows apart over all data sets.",
        "Run `ft run --group datasets`.",
    ),
    "FT-SPLIT-009": Code(
        "A record is not in the ledger",
        "It would be in no split, or in one that nobody checked.",
        "Run `ft run --asset split_ledger`.",
    ),
    "FT-SPLIT-010": Code(
        "A record names evidence that is not in the corpus",
        "It is grouped by that name alone, so a record about the same text may be in another split.",
        "Correct the id in the data, or add the document to `corpus.files`.",
    ),
    "FT-SPLIT-011": Code(
        "A source, difficulty or language is split unevenly",
        "Figures measured on test describe another mixture than the one trained on.",
        "Add data of this kind (new clusters are assigned by the shares), or change `datasets.split.key` in "
        "config.yaml (it assigns every cluster again).",
    ),
    "FT-SPLIT-012": Code(
        "A held-out text is part of a training text",
        "The model may have memorised the answer, so the test proves nothing.",
        "Leave one of the two out, or give both one `group` and new ids (they then share a split); if they share "
        "a template, add it to `datasets.split.templates` in config.yaml.",
    ),
    "FT-SPLIT-014": Code(
        "Training has seen too many held-out records",
        "A few are left out of validation and test by themselves; many mean that the data is split in the wrong place.",
        "Give the records that share a text the same `evidence` or `group`, add their template to "
        "`datasets.split.templates`, or raise `datasets.split.max_contaminated_share` in config.yaml.",
    ),
    "FT-SPLIT-013": Code(
        "Nearly equal questions are in different splits",
        "The test would ask questions that training has seen in other words.",
        "Give the record that was edited a new id, or change `datasets.split.key` in config.yaml (it assigns "
        "every cluster again).",
    ),
    "FT-SPLIT-015": Code(
        "A list of duplicates cannot be used",
        "A family that was read in part would be in two splits.",
        'Give every row an id and a group, or write one family a row: `{"ids": ["a", "b"]}`.',
    ),
    "FT-SPLIT-016": Code(
        "A list of duplicates names an id that no record has",
        "Its family is kept together without it. Where most ids are unknown, the list is of other ids: NeMo Curator "
        "numbers rows by itself unless they have ids.",
        "Make the list again with the ids of the records, or ignore this for rows that were quarantined.",
    ),
    # Training
    "FT-TRAIN-001": Code(
        "The split holds no rows",
        "Without training rows there is nothing to learn, and without validation rows it is unknown if it helped.",
        "Add rows, or raise the share in `datasets.split`.",
    ),
    "FT-TRAIN-002": Code(
        "The row is longer than `max_length`",
        "Under the policy `raise` no row is cut or dropped silently.",
        "Raise `max_length`, shorten the row, or set `too_long` to `drop` or `truncate_prompt`.",
    ),
    "FT-TRAIN-003": Code(
        "The prompt differs between training and serving",
        "The chat template renders it in two ways, so the model would serve with a prompt that it was not trained on.",
        "Use a chat template whose generation prompt begins every assistant turn.",
    ),
    "FT-TRAIN-004": Code(
        "No stop token carries loss",
        "The model would not learn to end its answer.",
        "Use a chat template that ends the assistant turn with the tokenizer's eos token.",
    ),
    "FT-TRAIN-005": Code(
        "No token of the row carries loss",
        "The row teaches nothing.",
        "Give the row an answer, or delete it.",
    ),
    "FT-TRAIN-006": Code(
        "Chosen and rejected are the same tokens",
        "The gradient of the pair is zero.",
        "Delete the pair.",
    ),
    "FT-TRAIN-007": Code(
        "The trainer's rows are not the ones that the gates checked",
        "TRL drops and cuts rows without a report; the figures of the gates would be about other rows.",
        "Report this: the preparation of TRL has changed.",
    ),
    "FT-TRAIN-008": Code(
        "bitsandbytes is not installed",
        "4-bit weights (`qlora`) and the 8-bit optimizers come from it.",
        "Install the extra `ft-assets[qlora]`, or set `method: lora` and `optimizer: adamw`.",
    ),
    "FT-TRAIN-009": Code(
        "The tokenizer has no chat template",
        "Without one, training and serving could render the prompt differently.",
        "Choose an instruction-tuned base model.",
    ),
    "FT-TRAIN-010": Code(
        "A loss or a gradient norm is not finite",
        "The weights after such a step are useless.",
        "Lower `learning_rate`, or look at the rows of that step.",
    ),
    "FT-TRAIN-011": Code(
        "A loss of the finished training is not finite",
        "The adapter cannot be trusted.",
        "Lower `learning_rate` and train again.",
    ),
    "FT-TRAIN-012": Code(
        "Training left the weights unchanged",
        "The result is the base model under a new name.",
        "Raise `learning_rate` or `max_steps`.",
    ),
    "FT-TRAIN-013": Code(
        "The validation loss did not fall",
        "The training did not help on rows that it did not see.",
        "Lower `learning_rate`, train less, or look at the data.",
    ),
    "FT-TRAIN-014": Code(
        "A reward figure is missing or not finite",
        "The rewards show how often, and by how much, the chosen answer is preferred.",
        "Lower `learning_rate` and train again.",
    ),
    "FT-TRAIN-015": Code(
        "There is nothing to train on",
        "config.yaml names no files for this data set.",
        "Name files there, or leave the adapters out of the run.",
    ),
    "FT-TRAIN-016": Code(
        "A text of the row is empty",
        "The model would learn to give an empty answer.",
        "Write the text, or delete the row.",
    ),
    "FT-TRAIN-017": Code(
        "The row has no reasoning, and the policy is `require`",
        "A reasoning model that is trained on rows without reasoning stops reasoning.",
        "Add the reasoning, or change `datasets.instruction.thinking`.",
    ),
    "FT-TRAIN-018": Code(
        "The tag that opens the reasoning carries loss",
        "When serving, the prompt already contains it, so the model would learn to open it twice.",
        "Leave `<think>` out of the answer: the chat template opens it.",
    ),
    "FT-TRAIN-019": Code(
        "The row is longer than `max_length` even without its passages",
        "Question and answer are never cut.",
        "Raise `max_length`, shorten the row, or set `too_long: drop`.",
    ),
    "FT-TRAIN-020": Code(
        "Too many rows train an empty reasoning",
        "A reasoning model would learn to close its reasoning at once.",
        "Add reasoning, set `datasets.instruction.thinking: mask_empty`, or raise `max_empty_thinking_share`.",
    ),
    "FT-TRAIN-021": Code(
        "The disk has too little free space for this training",
        "It would fail after hours, when a checkpoint is written.",
        "Free space, or move `FT_STATE_DIR`.",
    ),
    "FT-TRAIN-022": Code(
        "The training does not fit into memory",
        "Even with every step of the fallback on memory errors it would fail.",
        "Set `method: lora` or `qlora`, lower `max_length`, or choose a smaller `base_model` (see `ft estimate`).",
    ),
    "FT-TRAIN-023": Code(
        "Two trial steps left the weights unchanged",
        "The training would compute for hours and learn nothing.",
        "Raise `learning_rate`, or check `lora.targets`.",
    ),
    "FT-TRAIN-024": Code(
        "The tags of the reasoning are not paired",
        "It is unclear which part of the text is the answer.",
        "Fix the tags, or delete the row.",
    ),
    "FT-TRAIN-025": Code(
        "The result of the gate before training is missing",
        "The artifact comes from another version of the training, or its preflight.json was replaced.",
        "Delete the artifact and run its asset again.",
    ),
    "FT-TRAIN-026": Code(
        "`learning_rate` suits LoRA, but method is `full`",
        "LoRA uses ten times the rate of full training. At that rate full training loses what the base model knew.",
        "Set `learning_rate` to the usual value for full training, or leave it out.",
    ),
    "FT-TRAIN-027": Code(
        "Every row is longer than `max_length`: none is left",
        "Without training rows there is nothing to learn, and without validation rows it is unknown if it helped.",
        "Raise `max_length`, or set `too_long: truncate_prompt`.",
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
        "Both processes would write the same files.",
        "Wait for it, or stop it.",
    ),
    "FT-TRAIN-050": Code(
        "The processes cannot share a global batch evenly",
        "The real batch size would not be the configured one.",
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
    "FT-TRAIN-056": Code(
        "KTO has answers of one verdict only",
        "Without good answers, or without bad ones, it would make every answer likelier, or every one less likely.",
        "Add rows of the other verdict, or pairs in `datasets.preference`, or train with another `dpo.loss`.",
    ),
    "FT-TRAIN-057": Code(
        "All rows of a part have the same prompt",
        "KTO compares with answers to other questions, and there are none.",
        "Add rows on other questions, or train with another `dpo.loss`.",
    ),
    "FT-TRAIN-060": Code(
        "The chosen answers did not gain on the rejected ones",
        "On pairs that it did not see, the training made the rejected answers likelier than the chosen ones, or left "
        "both as they were. The loss may have fallen all the same.",
        "Look at the pairs. Change `dpo.loss` or `dpo.beta`; raise `dpo.learning_rate` if nothing moved.",
    ),
    "FT-TRAIN-061": Code(
        "The chosen answer gained in fewer than half of the pairs",
        "A few pairs with a large gain hide the many that lost.",
        "Look at the pairs that lost, or lower `dpo.learning_rate`.",
    ),
    "FT-TRAIN-062": Code(
        "The row is longer than the model has positions",
        "The model was never trained on such positions; its answers there are noise.",
        "Lower `max_length` to the model's positions and set `too_long`, or choose a model with a longer context.",
    ),
    "FT-TRAIN-063": Code(
        "A token id lies beyond the model's embedding",
        "The tokenizer has tokens that the weights do not have: it belongs to another model.",
        "Use the tokenizer that came with the model, or a model whose embedding was enlarged for it.",
    ),
    "FT-TRAIN-064": Code(
        "The learning rate is 0 in every step",
        "The warm-up is as long as the training, so that nothing would be learned.",
        "Lower `warmup_steps`, or train for more steps (`epochs`, `max_steps`, a smaller `global_batch_size`).",
    ),
    "FT-TRAIN-065": Code(
        "A name in `lora.targets` or `lora.modules_to_save` matches no layer of the model",
        "That part of the adapter would not exist.",
        "Choose among the names that the message lists, or leave the key out.",
    ),
    "FT-TRAIN-066": Code(
        "A tensor of the base model holds NaN or infinity",
        "Every answer and every gradient that passes through it is worthless.",
        "Fetch the model again, or convert it again from its source.",
    ),
    "FT-TRAIN-067": Code(
        "The base model lacks a tensor",
        "It would be filled with random numbers, trained on and published.",
        "Fetch the model again: a file of its weights is missing, or was cut.",
    ),
    "FT-TRAIN-068": Code(
        "The base model has a tensor that would not be read",
        "It belongs to a part of the model, so config.json describes another model than the weights are.",
        "Fetch config.json and the weights again, from one place.",
    ),
    "FT-TRAIN-069": Code(
        "A tensor of the base model has another shape than config.json says",
        "It would be filled with random numbers, trained on and published.",
        "Fetch config.json and the weights again, from one place.",
    ),
    "FT-TRAIN-070": Code(
        "There is no adapter in the folder that `dpo.start` names",
        "DPO continues an adapter, and needs its weights and its configuration.",
        "Name a folder in PEFT's layout (`ft export` writes one), or set `dpo.start` to `sft` or `base`.",
    ),
    "FT-TRAIN-071": Code(
        "The checkpoint of the best evaluation is gone or damaged",
        "With `checkpoint: best` its weights are what is published; the last ones are others.",
        "Run the training again after deleting its run folder, or set `checkpoint: last` to publish the last weights.",
    ),
    "FT-TRAIN-072": Code(
        "An entry of `mix` matches no training row",
        "A typing error in its glob would train without the weights that were asked for.",
        "Write the file as `source` of the splits has it, relative to config.yaml; `*` matches any text, slashes too.",
    ),
    "FT-TRAIN-073": Code(
        "The library of an experiment tracker is not installed",
        "`telemetry.report_to` names it; without it the figures would go nowhere.",
        "Install the extra of this name, or take the name out of `telemetry.report_to`.",
    ),
    "FT-TRAIN-074": Code(
        "A text in `lora.train_tokens` is no token of the base model",
        "It would be read as several tokens, and none of them has a row of its own to train.",
        "Add it with `ft add-tokens` and name the folder that this writes as `base_model`.",
    ),
    "FT-TRAIN-075": Code(
        "The embedding and the output head of this model are one matrix",
        "As a saved module of an adapter it would become two, and only one of them would be trained.",
        "Train the rows of single tokens (`lora.train_tokens`), or every weight (`method: full`).",
    ),
    "FT-TRAIN-076": Code(
        "The rows of `lora.train_tokens` cannot be trained apart from the rest of their module",
        "All rows of the module are trained by another key of `lora`, or it has a bias, which PEFT would drop.",
        "Leave `train_tokens` out, or the module out of `modules_to_save` and `targets`. With a bias: `method: full`.",
    ),
    "FT-TRAIN-077": Code(
        "The best answers to the validation questions are worse than those before the training",
        "The published weights were chosen by this measure on the same questions, and no evaluation reached the start.",
        "Lower `learning_rate`, or look at the curve of the answers: with a shorter `eval_steps` an early step may be "
        "better. With `best_by: loss` this is not judged.",
    ),
    "FT-TRAIN-078": Code(
        "The adapter has matrices on the output head",
        "The loss is computed from the head's own weight, so that these matrices would never be trained.",
        "Take the head out of `lora.targets` (`all-linear` leaves it out). Where it is not the embedding, "
        "`lora.modules_to_save: [lm_head]` trains it as a whole.",
    ),
    "FT-TRAIN-079": Code(
        "This setting cannot be combined with `sharding: fsdp2`",
        "It is not shown to train the same weights where every process has a shard of the model.",
        "Change the setting that the message names, or set `sharding: none`.",
    ),
    "FT-TRAIN-080": Code(
        "transformers has no plan by which this model is split into shards",
        "The classes of the model do not name the layers that can be spread over processes.",
        "Set `sharding: none` and take fewer rows at a time or `method: qlora`, or choose another base model.",
    ),
    # Vectors
    "FT-VEC-001": Code(
        "A passage does not have exactly one row of vectors",
        "The passage would be missing in the index, or be there twice.",
        "Run `ft run --asset passage_vectors`.",
    ),
    "FT-VEC-002": Code(
        "A dense vector has another dimension than the model",
        "It cannot be stored or compared with the others.",
        "Run `ft run --asset passage_vectors`.",
    ),
    "FT-VEC-003": Code(
        "A vector holds NaN or an infinity",
        "Its scores are not numbers, and the ranking is random.",
        "Check `accelerator.dtype`, then run `ft run --asset passage_vectors`.",
    ),
    "FT-VEC-004": Code(
        "The vectors were made from another text",
        "Searches would find a passage by its old text.",
        "Run `ft run --asset passage_vectors`.",
    ),
    "FT-VEC-005": Code(
        "Too many passages have an empty lexical vector",
        "The lexical head has collapsed: the sparse arm cannot find these passages.",
        "Lower `embedding.head_learning_rate` or raise `sparse_temperature`, then run `ft run --group embedding`.",
    ),
    "FT-VEC-006": Code(
        "The vectors were made by another model",
        "Scores between vectors of different models mean nothing, even where the dimension is the same.",
        "Run `ft run --asset passage_vectors`.",
    ),
    "FT-VEC-008": Code(
        "The lexical vectors are not of the configured arm",
        "The collection would rank by other terms or weights than the settings say.",
        "Run `ft run --asset released_collection --upstream`.",
    ),
    "FT-VEC-007": Code(
        "Vectors and passages are not in the same order",
        "They were not made by the same run; a point would get the text of another passage.",
        "Run `ft run --asset passage_vectors`.",
    ),
    "FT-VEC-010": Code(
        "Too many passages are longer than what the encoder reads",
        "The dense vector of such a passage knows nothing of its end, so questions about it are not answered.",
        "Cut them to what it reads (`corpus.max_tokens`), let it read more (`embedding.passage_max_tokens`, then "
        "`ft run --group embedding`), or raise `retrieval.max_cut_share`.",
    ),
}


def codes_markdown() -> str:
    """Return the table of all codes as Markdown, the text of docs/rules.md."""
    rows = ((f"`{key}`", *(text.replace("|", r"\|") for text in code)) for key, code in CODES.items())
    return markdown_table(["code", "what", "why it matters", "how to fix"], rows) + "\n"
