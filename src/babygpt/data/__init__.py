"""Text to batches, a file a stage.

    remote      addresses              -> copies in the cache (transfer, web, connections, buckets and hub_rows fetch)
    formats     a file                 -> text, or records (streams and utf8 read them)
    records     a record               -> Document: text, spans or messages (messages reads conversations)
    sources     paths                  -> Documents of all of that (folders finds files, hub_datasets opens data sets)
    identity    paths                  -> every file's size, time and sha256 (digests remembers them)
    tokenizers  names and texts        -> a tokenizer, loaded or trained
    chat        a conversation         -> text with its targets marked
    encoding    Document               -> Encoded: ids, target mask, bytes
    oddities    texts                  -> counts of what is odd in them
    duplicates  hashes, texts, ids     -> what stands twice
    imports     ids made elsewhere     -> Encoded (tokenised reads the files)
    writing     Encoded                -> a token store on the disk
    arrow       a token store          -> TokenStore: memory-mapped ids, offsets, manifest
    split       content hashes         -> which documents, or which tokens, are held out
    building    a data recipe          -> both stores: choosing, excerpts for the tokenizer, work to go on from
    exporting   a token store          -> a corpus: a folder to copy anywhere (corpus says what is in it)
    opening     a corpus's address     -> StreamedStore (streamed), over corpus_index, pieces and piece_cache
    store       a data recipe          -> PreparedData: found in the cache, or built and published
    several     a recipe with weights  -> PreparedData of a store a source (joined lays them side by side)
    changes     a run folder           -> whether the data are still what it was trained on
    block       a model's positions    -> the length of a window
    packing     document offsets       -> Windows: pieces of the flat ids
    efficiency  Windows                -> length statistics, padding and cuts
    layout      TokenStore             -> Windows, kept beside a large store
    order       (seed, step)           -> window numbers
    mixture     (seed, step), weights  -> window numbers of several sources
    batches     window numbers         -> tensors, and the true target count of any step
    ahead       rows of later batches  -> what to fetch meanwhile
    view        a batch's row          -> its tokens' texts, for people
    module      all of it              -> LLMDataModule

Everything up to the batches is a pure function of the text and the recipe: ranks, workers and micro-batches
only slice it.
"""
