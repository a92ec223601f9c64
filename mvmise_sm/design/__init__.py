"""Terms and a data frame to arrays: columns, values, coding, grouping factors, rank, new data."""
