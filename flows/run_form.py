"""Types of the flows' parameters, as Prefect's run form shows and checks them.

The form shows what a flow's docstring says of a parameter where it is written as in the flows here, under "Args".
"""

from typing import Annotated

from pydantic import Field

Reason = Annotated[str, Field(max_length=1000)]
Accept = Annotated[str | None, Field(max_length=1000)]
Target = Annotated[str | None, Field(max_length=64)]
