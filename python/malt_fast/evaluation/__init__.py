"""Systems, their scores on the same questions, intervals, tables and plots."""
