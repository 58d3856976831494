"""The companion page: trainings, releases, search, data and reports, read from artifacts and the record of releases."""
