package source

// SetPageSize makes the source's lists come in smaller pages.
func SetPageSize(a *API, n int) { a.pageSize = n }
