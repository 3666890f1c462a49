"""The stages: functions that read their parameters, call m2det and write their outputs."""
