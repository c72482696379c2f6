from typing import final

@final
class Known: ...

@final
class Sheet: ...
