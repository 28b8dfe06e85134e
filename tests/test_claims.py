"""Each claim of three pages is held by a test, or says why it is none.

A claim is a row of a table, a point of a list, or a section that has neither: it is known by how
it begins. A claim that nobody wrote of here fails, and so does an entry whose claim is gone.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.test_docs import DOCS, ROOT, functions

_CLAIM: Final = re.compile(r"^(?:\| (?!---)|- |## )(.+)$", re.MULTILINE)

DEPLOYMENT: Final = {
    "it needs": "heads of a table",
    "a directory for files": (
        "tests/store/test_rundir_roots.py::"
        "test_the_argument_outranks_the_variable_which_outranks_the_default"
    ),
    "descriptors:": (
        "tests/test_deployment_page.py::test_descriptors_and_processes_are_as_many_as_the_page_says"
    ),
    "one process a worker": (
        "tests/crash/test_limits_of_processes.py::"
        "test_a_moment_without_processes_breaks_no_collector_of_many_workers"
    ),
    "Containers": (
        "tests/test_deployment_page.py::"
        "test_a_directory_that_others_may_enter_is_refused_and_one_inside_is_made"
    ),
    "**Process 1.**": (
        "tests/test_deployment_page.py::test_process_1_keeps_zombies_and_does_not_heed_sigterm"
    ),
    "**/dev/shm**": "tests/test_deployment_page.py::test_slots_are_memory_without_a_name",
    "**tmpfs.**": "tests/store/test_rundir_roots.py::test_memory_is_warned_of_once",
    "**CPU quota.**": (
        "tests/test_usable_cpus.py::test_a_real_quota_of_the_group_around_ours_counts"
    ),
    "**Memory limit.**": (
        "tests/crash/test_out_of_memory.py::"
        "test_a_worker_that_is_killed_for_memory_fails_its_job_only_and_says_so"
    ),
    "**A stopped container**": (
        "tests/crash/test_parent_death.py::"
        "test_the_next_collector_reclaims_what_a_killed_tree_has_left"
    ),
    "**Read-only root.**": (
        "tests/test_deployment_page.py::test_only_the_temp_root_must_be_writable"
    ),
    "systemd": "tests/test_deployment_page.py::test_a_stop_of_every_process_leaves_nothing",
    "SLURM": "tests/batch/test_slurm_page.py::test_the_array_of_the_page_runs_the_batch_once",
    "Kubernetes jobs": (
        "tests/crash/test_disk_full.py::test_a_full_disk_fails_one_job_and_the_others_go_on"
    ),
    "Notebooks": (
        "tests/test_progress_notebook.py::test_in_a_notebook_each_batch_has_the_bar_of_tqdm"
    ),
    "Tests, coverage": "tests/test_deployment_page.py::test_coverage_sees_what_a_worker_runs",
    "**pytest**": (
        "tests/test_testing_page.py::test_the_example_passes_where_collector_is_installed"
    ),
    "**pdb**": (
        "tests/test_deployment_page.py::test_a_breakpoint_fails_its_job_and_waits_for_nobody"
    ),
    "**py-spy**": (
        "tests/test_start_program.py::"
        "test_server_sink_and_workers_are_told_apart_in_lists_of_processes"
    ),
    "Frozen programs": "tests/test_start_program.py::test_a_frozen_program_never_starts_itself",
}
SECURITY: Final = {
    "What is trusted": "says what is meant, and promises nothing",
    "**Your program and": "says what is meant, and promises nothing",
    "**Your user.**": "says what is meant, and promises nothing",
    "**Nobody else.**": "says what is meant, and promises nothing",
    "Who can read what": (
        "tests/store/test_rundir_roots.py::"
        "test_a_default_root_that_cannot_be_trusted_is_replaced_with_one_warning"
    ),
    "what | who": "heads of a table",
    "run directories with": "tests/batch/test_directory.py::test_all_of_it_is_ours_alone",
    "a file that `save`": (
        "tests/store/test_save_access.py::test_the_size_of_an_output_does_not_matter"
    ),
    "what processes hand": (
        "tests/test_security_page.py::test_what_processes_hand_each_other_has_no_name"
    ),
    "the socket `ask`": "tests/test_asking_hostile.py::test_another_user_reaches_nobody",
    "the command lines of our": (
        "tests/test_security_page.py::test_a_command_line_of_ours_has_nothing_of_a_job"
    ),
    "the command lines of what": (
        "tests/test_security_page.py::"
        "test_what_collector_run_starts_has_its_input_on_its_command_line"
    ),
    "What is unpickled": (
        "tests/test_security_page.py::test_the_program_alone_unpickles_what_a_job_returned"
    ),
    "Calls, values and": (
        "tests/test_security_page.py::test_the_program_alone_unpickles_what_a_job_returned"
    ),
    "The collector process": (
        "tests/process/test_sink_liars.py::test_a_worker_that_lies_is_given_up_and_no_other_one"
    ),
    "A value in a batch": (
        "tests/batch/test_refused.py::test_nothing_is_unpickled_where_others_may_write"
    ),
    "What a running Collector": (
        "tests/test_asking_hostile.py::test_what_is_no_question_is_refused"
    ),
    "With `engine": "is about Ray, and is measured on its own page",
    "Secrets": "the points below it",
    "**What a job writes": "is what the library is for",
    "**What a job is given**": (
        "tests/test_security_page.py::test_what_a_job_is_given_is_on_no_disk"
    ),
    "**What a job returned**": (
        "tests/test_security_page.py::"
        "test_what_a_job_returned_is_in_the_run_directory_until_it_is_read"
    ),
    "**Commands.**": "tests/batch/test_directory.py::test_a_second_process_is_told_who_has_it",
    "**The environment**": "tests/test_security_page.py::test_the_environment_is_written_nowhere",
    "**Errors and logs**": (
        "tests/integrations/test_gemini_key.py::"
        "test_the_key_is_told_nowhere_when_the_service_quotes_it"
    ),
    "**The keys of": (
        "tests/test_children.py::"
        "test_no_key_is_seen_on_a_command_line_in_the_environment_or_in_a_file"
    ),
    "**Reports**": "tests/batch/test_report_html.py::test_no_text_of_a_job_is_markup",
    "Reporting": "asks for something",
}
STABILITY: Final = {
    "Promised": "the rows below it",
    "what | how": "heads of a table",
    "the names in `collector.__all__`": (
        "tests/test_stability_page.py::test_no_parameter_of_a_release_is_gone_without_a_word"
    ),
    "the names in `__all__`": (
        "tests/test_stability_page.py::test_an_integration_says_what_it_promises"
    ),
    "the name of each error": (
        "tests/test_stability_page.py::test_an_error_is_the_built_in_one_too"
    ),
    "commands, options": (
        "tests/test_command_line_page.py::test_the_page_of_the_command_line_is_what_the_parser_says"
    ),
    "the fields of what": "tests/test_cli.py::test_its_json_is_one_object",
    "the format of [batch": "tests/batch/test_directory.py::test_a_newer_version_is_refused",
    "run directories": (
        "tests/test_stability_page.py::test_what_version_0_1_0_has_left_is_reclaimed"
    ),
    "`$COLLECTOR_TMPDIR`": (
        "tests/run/test_run.py::test_a_job_has_an_empty_stdin_its_own_group_and_is_told_which_it_is"
    ),
    "CPython from 3.11": (
        "tests/test_stability_page.py::test_the_first_python_of_the_page_is_that_of_the_metadata"
    ),
    "Not promised": "promises nothing, and so do the rows below it",
    "what | since": "heads of a table",
    "modules below": "promises nothing",
    "texts of errors": "promises nothing",
    "what the processes say": "promises nothing",
    "the layout of a run": "promises nothing",
    "speed": "promises nothing",
    "the values in": "promises nothing",
}
PAGES: Final = {"deployment": DEPLOYMENT, "security": SECURITY, "stability": STABILITY}


def claims(page: Path) -> Iterator[str]:
    yield from _CLAIM.findall(page.read_text("utf-8"))


@pytest.mark.parametrize("name", PAGES)
def test_each_claim_is_held_by_a_test_or_says_why_not(name: str) -> None:
    found = [*claims(DOCS / f"{name}.md")]
    assert [claim for claim in found if not claim.startswith(tuple(PAGES[name]))] == []
    gone = [key for key in PAGES[name] if not any(claim.startswith(key) for claim in found)]
    assert gone == []


@pytest.mark.parametrize(
    "test", sorted({test for page in PAGES.values() for test in page.values() if "::" in test})
)
def test_the_test_that_holds_a_claim_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert name in functions(ROOT / path)


def test_a_new_claim_would_be_seen() -> None:
    assert not "the moon is ours | nobody |".startswith(tuple(STABILITY))
