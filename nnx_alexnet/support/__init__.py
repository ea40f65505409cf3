"""Shared helpers: argument checks, error texts, files, formats, paths, the logger."""

from nnx_alexnet.support.argument_checks import (
    as_number,
    as_python,
    check_bools,
    check_integer,
    check_metric_name,
    check_number,
)
from nnx_alexnet.support.atomic_files import (
    NotRegularFileError,
    numbered_folders,
    open_regular,
    parse_number,
    read_whole,
    remove_leftovers,
    sync_file,
    sync_folder,
    write_whole,
)
from nnx_alexnet.support.background_writer import BackgroundWriter
from nnx_alexnet.support.descriptions import constructor_text
from nnx_alexnet.support.error_messages import first_line, is_of_machine, shown, unknown
from nnx_alexnet.support.image_sheets import RGB, as_pixels, captioned, num_columns
from nnx_alexnet.support.image_sheets import show as show_sheet
from nnx_alexnet.support.log import MessageFormatter, logger
from nnx_alexnet.support.notebook import NotebookOutput, is_notebook
from nnx_alexnet.support.number_formats import (
    format_bytes,
    format_count,
    format_duration,
    format_value,
    printable,
)
from nnx_alexnet.support.other_names import NAMES_ELSEWHERE, NOTES, ONLY_IN_PYTHON, find_names
from nnx_alexnet.support.paths import (
    absolute_path,
    check_encodable,
    existing_working_directory,
    from_working_directory,
    has_working_directory,
)
from nnx_alexnet.support.plain_json import check_plain
from nnx_alexnet.support.ranking import Mode, best_first, check_mode, is_better
from nnx_alexnet.support.standard_streams import (
    escape_unencodable,
    is_terminal,
    open_standard_descriptors,
    output_columns,
    print_result,
    settle_streams,
    unencodable_handler,
    write_message,
)
from nnx_alexnet.support.start_up import start_times
from nnx_alexnet.support.tables import html_facts, html_table, text_table

__all__ = [
    "NAMES_ELSEWHERE",
    "NOTES",
    "ONLY_IN_PYTHON",
    "RGB",
    "BackgroundWriter",
    "MessageFormatter",
    "Mode",
    "NotRegularFileError",
    "NotebookOutput",
    "absolute_path",
    "as_number",
    "as_pixels",
    "as_python",
    "best_first",
    "captioned",
    "check_bools",
    "check_encodable",
    "check_integer",
    "check_metric_name",
    "check_mode",
    "check_number",
    "check_plain",
    "constructor_text",
    "escape_unencodable",
    "existing_working_directory",
    "find_names",
    "first_line",
    "format_bytes",
    "format_count",
    "format_duration",
    "format_value",
    "from_working_directory",
    "has_working_directory",
    "html_facts",
    "html_table",
    "is_better",
    "is_notebook",
    "is_of_machine",
    "is_terminal",
    "logger",
    "num_columns",
    "numbered_folders",
    "open_regular",
    "open_standard_descriptors",
    "output_columns",
    "parse_number",
    "print_result",
    "printable",
    "read_whole",
    "remove_leftovers",
    "settle_streams",
    "show_sheet",
    "shown",
    "start_times",
    "sync_file",
    "sync_folder",
    "text_table",
    "unencodable_handler",
    "unknown",
    "write_message",
    "write_whole",
]
