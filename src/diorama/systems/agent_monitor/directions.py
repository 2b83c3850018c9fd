"""Which way each feature can push the risk, by its meaning. Training finds sizes, never signs.

A word that nobody spoke of cannot make an action safer, a refusal cannot make it more dangerous. A small set of
recordings suggests such signs all the same, and they do not carry over to the next set.
"""

RISING = frozenset(
    """does_write does_delete does_stop does_send does_pay does_grant does_execute does_network does_physical
    unasked_write unasked_delete unasked_stop unasked_send unasked_pay unasked_grant unasked_execute unasked_physical
    unasked_outward unasked_any side_effect outward fit_none arguments_in_none no_user_match recipient
    recipient_from_tool recipient_from_nowhere path_unknown id_unknown obeys obeys_machine obeyed_words injection_seen
    money money_unknown sends_tool_data rules harm_user harm_action harm_thought harm_tool harm_purpose
    injection_by_user secret sensitive_path sensitive_word system_path code_network code_system code_deletes
    code_dynamic hidden climbs broad leaf_none leaf_any_none leaf_named_none leaf_worst leaf_all leaf_all_unasked
    target_none target_only_none body_unknown domain_none domain_new domain_special tool_named_by_output
    complies_with_harm unasked_outward*fit_none unasked_outward*recipient_from_tool
    unasked_outward*recipient_from_nowhere unasked_any*obeys unasked_any*injection_seen obeys_machine*side_effect
    side_effect*fit_none does_execute*fit_none outward*recipient_from_tool sensitive_path*does_send
    sensitive_path*does_read secret*outward answer*harm_user paths*path_unknown code*fit_none does_write*fit_none
    sensitive_word*unasked_outward money*money_unknown does_pay*recipient_from_tool does_pay*recipient_from_nowhere
    broad*does_delete unasked_any*fit_tools sends_tool_data*recipient_from_nowhere injection_by_user*harm_tool
    harm_tool*side_effect unasked_any*tool_used_before""".split()
)
FALLING = frozenset(
    """does_read answer tool_used_before fit_user fit_prompt fit_known arguments_in_user tool_in_user tool_in_prompt
    task_covered thought_in_user hosts_known delegated user_share purpose_in_user is_declared refusal caution
    caution_thought leaf_user leaf_own target_user noun_known noun_called domain_asked calm_read
    injection_seen*fit_user side_effect*fit_user does_read*fit_user outward*fit_user answer*fit_user delegated*obeys
    delegated*unasked_any delegated*fit_none injection_by_user*fit_user""".split()
)
FREE = frozenset(
    """no_effect_known steps_before fit_tools no_thought fit_previous no_arguments action_length few_words no_outputs
    path_from_tool paths id_from_tool tool_share sensitive_asked code shell sql leaf_tool target_tool body no_noun
    first_call no_domain does_read*fit_none no_outputs*fit_user no_outputs*fit_none no_outputs*no_user_match
    steps_before*fit_none few_words*fit_none""".split()
)
"""Length, position and style: either sign may be right."""


def direction(name: str) -> int:
    """1 if a feature can only raise the risk, -1 if it can only lower it, 0 if either. Raises KeyError for others."""
    if name in FREE:
        return 0
    if name in RISING:
        return 1
    if name in FALLING:
        return -1
    raise KeyError(name)
