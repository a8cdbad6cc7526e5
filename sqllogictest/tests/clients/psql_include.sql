SELECT 'from another file' AS included;
