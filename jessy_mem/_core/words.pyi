from typing import final

@final
class WordScan: ...
